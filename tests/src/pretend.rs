//! GPUs that are none: `echat` with the libraries of `pretend-gpu/` in the place of NVIDIA's.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::process::{Running, target};

/// The libraries, compiled.
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = target().join("pretend-gpu");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("pretend-gpu");
    let mut make = Command::new("make");
    let output = make.args(["-s", "-j2", "-C"]).arg(source).arg(format!("OUT={}", out.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
});

/// A machine with pretend GPUs: one, unless `PRETEND_GPUS` is set to say otherwise.
pub struct Pretend {
    libraries: PathBuf,
    env: Vec<(String, String)>,
    /// Where `libraries` is if some are left out.
    _dir: Option<TempDir>,
}

impl Pretend {
    /// One with all libraries.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { libraries: LIBRARIES.clone(), env: Vec::new(), _dir: None }
    }

    /// One that lacks the library whose file begins with `name`.
    pub fn without(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut lacks = false;
        for entry in LIBRARIES.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap();
            lacks |= file.starts_with(name);
            if file.contains(".so") && !file.starts_with(name) {
                symlink(&path, dir.path().join(file)).unwrap();
            }
        }
        assert!(lacks, "there is no {name}");
        Self { libraries: dir.path().to_owned(), env: Vec::new(), _dir: Some(dir) }
    }

    /// The same with a variable that the pretend libraries look at (`driver.cpp`, `nccl.cpp`).
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Starts `echat ARGS` on `ranks` ranks.
    pub fn start(&self, ranks: usize, args: &[String]) -> Running {
        let mut env = self.env.clone();
        env.push(("LD_LIBRARY_PATH".to_owned(), self.libraries.to_str().unwrap().to_owned()));
        Running::start_with(ranks, args, &env)
    }
}
