//! Compiles the ops' `kernel.cu`: with the feature `cuda` into images for the GPU, if there is an nvcc (else NVRTC compiles the
//! sources at run time), with the feature `emulate` as C++ of the host, for the tests. `OUT_DIR/kernels.rs` holds what came of it.
//!
//! The whole of `src` is watched, for kernels that are new; what is already compiled from the same text by the same command is kept.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

type Result<T> = std::result::Result<T, String>;

/// Machine code for A100 and H100, and PTX, of which the driver makes code for what comes after them.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"];

/// What every kernel is compiled with. No fast math: results are compared with f64.
const NVCC_FLAGS: [&str; 5] = ["-fatbin", "-O3", "-std=c++17", "-Xptxas", "-v"];

struct Kernel {
    name: String,
    source: PathBuf,
}

struct Build {
    kernels: Vec<Kernel>,
    /// Where the host's headers lie, and their text.
    include: PathBuf,
    headers: String,
    out: PathBuf,
}

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=build.rs");
    if !cfg!(any(feature = "cuda", feature = "emulate")) {
        return ExitCode::SUCCESS;
    }
    println!("cargo:rerun-if-changed=src");
    let Err(message) = Build::new().and_then(|build| build.run()) else { return ExitCode::SUCCESS };
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

impl Build {
    fn new() -> Result<Self> {
        let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("src");
        let include = source.join("cuda");
        let mut kernels = Vec::new();
        for folder in list(&source)? {
            let source = folder.join("kernel.cu");
            if let (true, Some(name)) = (source.is_file(), folder.file_name().and_then(|n| n.to_str())) {
                kernels.push(Kernel { name: name.to_owned(), source });
            }
        }
        let out = PathBuf::from(variable("OUT_DIR")?);
        for kernel in &mut kernels {
            let whole = out.join(&kernel.name).with_extension("cu");
            write(&whole, &inlined(&kernel.source, &mut Vec::new())?)?;
            kernel.source = whole;
        }
        let headers = read(&include.join("emulate.h"))?;
        Ok(Self { kernels, include, headers, out })
    }

    fn run(&self) -> Result<()> {
        let nvcc = if cfg!(feature = "cuda") { find_nvcc() } else { None };
        if let Some(nvcc) = &nvcc {
            let version = run(Command::new(nvcc).arg("--version"))?;
            self.each(|kernel| {
                let mut command = Command::new(nvcc);
                command.args(NVCC_FLAGS).args(TARGETS.iter().flat_map(|target| ["-gencode", target]));
                self.compile(&mut command, &version, &kernel.source, &self.image(kernel))
            })?;
        } else if cfg!(feature = "cuda") && env::var_os("NVCC_LEAN").is_none() {
            println!("cargo:warning=no nvcc (NVCC, CUDA_HOME/bin, PATH): NVRTC compiles the kernels when first used");
        }
        #[cfg(feature = "emulate")]
        self.emulate()?;
        write(&self.out.join("kernels.rs"), &self.listing(nvcc.is_some()))
    }

    /// All kernels as one library of the host. Nothing refers to it: kernels make themselves known before `main`, so all of it is linked.
    #[cfg(feature = "emulate")]
    fn emulate(&self) -> Result<()> {
        if variable("CARGO_CFG_TARGET_ARCH")? != "x86_64" {
            return Err("the feature `emulate` is for x86-64".into());
        }
        if self.kernels.is_empty() {
            return Ok(());
        }
        let mut tool = cc::Build::new();
        tool.cpp(true).std("c++17").opt_level(1).debug(false).warnings(false).define("ECHAT_EMULATE", None);
        tool.flag("-fno-strict-aliasing").flag("-Wno-unknown-pragmas").flag("-x").flag("c++");
        // On a GPU what is not aligned ends the program, and here too.
        tool.flag("-fsanitize=alignment").flag("-fsanitize-undefined-trap-on-error");
        let compiler = tool.try_get_compiler().map_err(|e| format!("no C++ compiler for `emulate`: {e}"))?;
        let object = |name: &str| self.out.join(name).with_extension("o");
        let compile = |source: &Path, name: &str| self.compile(&mut compiler.to_command(), "", source, &object(name));
        compile(&self.include.join("emulate.cpp"), "emulate-main")?;
        self.each(|kernel| compile(&kernel.source, &kernel.name))?;
        let mut library = cc::Build::new();
        library.cpp(true).link_lib_modifier("+whole-archive").object(object("emulate-main"));
        library.objects(self.kernels.iter().map(|kernel| object(&kernel.name)));
        library.try_compile("echat_emulated").map_err(|e| format!("libechat_emulated.a: {e}"))
    }

    fn image(&self, kernel: &Kernel) -> PathBuf {
        self.out.join(&kernel.name).with_extension("fatbin")
    }

    /// Has `command`, of compiler `version`, make `output` of `source`, unless it is made already. What it says is kept beside it.
    fn compile(&self, command: &mut Command, version: &str, source: &Path, output: &Path) -> Result<()> {
        command.arg("-I").arg(&self.include).arg("-o").arg(output);
        command.args((output.extension().is_some_and(|e| e == "o")).then_some("-c")).arg(source);
        let mut hasher = DefaultHasher::new();
        (format!("{command:?}"), version, &self.headers, read(source)?).hash(&mut hasher);
        let (key, log) = (output.with_extension("key"), output.with_extension("log"));
        let made_of = format!("{:016x}", hasher.finish());
        if output.is_file() && fs::read_to_string(&key).is_ok_and(|key| key == made_of) {
            return Ok(());
        }
        let said = run(command)?;
        write(&log, &said)?;
        write(&key, &made_of)
    }

    /// Does `job` for every kernel, as many at a time as cargo builds crates.
    fn each(&self, job: impl Fn(&Kernel) -> Result<()> + Sync) -> Result<()> {
        let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(kernel) = self.kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                job(kernel)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked".to_owned())?)
        })
    }

    /// The text of `kernels.rs`. Images are aligned as the structures the driver reads them as.
    fn listing(&self, images: bool) -> String {
        let (mut sources, mut statics) = (String::new(), String::new());
        for (i, kernel) in self.kernels.iter().enumerate() {
            let (Kernel { name, source }, path) = (kernel, self.image(kernel));
            let image = if images { format!("Some(&IMAGE_{i}.0)") } else { "None".to_owned() };
            sources += &format!("    Source {{ name: {name:?}, text: include_str!({source:?}), image: {image} }},\n");
            if images {
                statics += &format!("static IMAGE_{i}: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?}));\n");
            }
        }
        format!(
            "pub(crate) static KERNELS: &[Source] = &[\n{sources}];\n\
             #[allow(dead_code)]\n#[repr(C, align(64))]\nstruct Aligned<B: ?Sized>(B);\n{statics}"
        )
    }
}

/// The nvcc there is; none where the build is but to be checked (`launch/nvcc-lean`).
fn find_nvcc() -> Option<PathBuf> {
    for name in ["NVCC", "CUDA_HOME", "NVCC_LEAN", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    if env::var("NVCC_LEAN").is_ok_and(|mode| mode == "stub") {
        return None;
    }
    let named = env::var_os("NVCC").map(PathBuf::from);
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    named.into_iter().chain(home).chain(path).find(|nvcc| nvcc.is_file())
}

/// What `command` prints; if it fails, an error with all of it.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    output.status.success().then(|| said.to_string()).ok_or_else(|| format!("{command:?}: {}\n{said}", output.status))
}

/// What lies in `folder`, in the order of the names.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// The text of `source` with what it includes from beside it in place, each file once: NVRTC knows no files. The host's headers stay as they are.
fn inlined(source: &Path, seen: &mut Vec<PathBuf>) -> Result<String> {
    let path = fs::canonicalize(source).map_err(|e| format!("{}: {e}", source.display()))?;
    if seen.contains(&path) {
        return Ok(String::new());
    }
    seen.push(path.clone());
    let mut text = format!("#line 1 {path:?}\n");
    for (i, line) in read(&path)?.lines().enumerate() {
        let included =
            line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix("\"")).filter(|f| f.ends_with(".cuh"));
        match included {
            Some(file) => {
                text += &inlined(&path.with_file_name("").join(file), seen)?;
                text += &format!("#line {} {path:?}\n", i + 2);
            }
            None if line == "#pragma once" => text += "\n",
            None => {
                text += line;
                text.push('\n');
            }
        }
    }
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
