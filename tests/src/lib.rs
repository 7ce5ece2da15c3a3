//! What the promises in `tests/` stand on: a tiny model with its corpus in a temporary directory ([`Fixture`]), and the
//! `echat` binary run on it, alone or under mpirun ([`Running`], [`Outcome`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpus;
mod metrics;
mod model;
mod pretend;
mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use corpus::{EMOTIONS, write_wav};
pub use metrics::{Metrics, assert_close};
pub use pretend::Pretend;
pub use process::{Outcome, Running, signal};
use tempfile::TempDir;

/// A directory with a tiny encoder and decoder (shapes and a tokenizer; weights start at random), a corpus, and the
/// configurations `stage1.toml`, `stage2.toml` and `text.toml`.
pub struct Fixture {
    dir: TempDir,
}

impl Fixture {
    /// Makes it.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let fixture = Self { dir: TempDir::new().unwrap() };
        model::write(fixture.root());
        corpus::write(fixture.root());
        fixture.write("stage1.toml", &fixture.fill(include_str!("stage1.toml")));
        fixture.write("stage2.toml", &fixture.fill(include_str!("stage2.toml")));
        fixture.write("text.toml", &fixture.fill(include_str!("text.toml")));
        fixture
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The same as text, for arguments.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file, and the directories it lies in.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// `text` with `{root}` replaced.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{root}", self.root().to_str().unwrap())
    }

    /// Runs `echat` on `ranks` ranks to its end: without mpirun if `ranks` is 1. `{root}` in `args` is replaced.
    pub fn echat(&self, ranks: usize, args: &[&str]) -> Outcome {
        let args: Vec<String> = args.iter().map(|a| self.fill(a)).collect();
        Running::start(ranks, &args).wait()
    }

    /// `train CONFIG` into the run directory `run`, with overrides and further arguments.
    pub fn train_args(&self, config: &str, run: &str, sets: &[&str], more: &[&str]) -> Vec<String> {
        let mut args =
            vec!["train".into(), self.arg(config), "--set".into(), format!("output.dir=\"{}\"", self.arg(run))];
        for set in sets {
            args.extend(["--set".into(), self.fill(set)]);
        }
        args.extend(more.iter().map(|arg| self.fill(arg)));
        args
    }

    /// Starts `echat train`.
    pub fn start_train(&self, ranks: usize, config: &str, run: &str, sets: &[&str], more: &[&str]) -> Running {
        Running::start(ranks, &self.train_args(config, run, sets, more))
    }

    /// The same to its end.
    pub fn train(&self, ranks: usize, config: &str, run: &str, sets: &[&str], more: &[&str]) -> Outcome {
        self.start_train(ranks, config, run, sets, more).wait()
    }

    /// The same, which must succeed; returns the run's metrics.
    pub fn trained(&self, ranks: usize, config: &str, run: &str, sets: &[&str]) -> Metrics {
        self.train(ranks, config, run, sets, &[]).expect_success();
        self.metrics(run)
    }

    /// The metrics of a run.
    pub fn metrics(&self, run: &str) -> Metrics {
        Metrics::read(&self.path(run))
    }

    /// The checkpoint of step `step` of a run.
    pub fn checkpoint(&self, run: &str, step: u64) -> PathBuf {
        self.path(run).join(format!("checkpoints/step-{step:08}"))
    }

    /// The bytes of its weights and of its optimizer's state.
    pub fn weights(&self, run: &str, step: u64) -> [Vec<u8>; 2] {
        let read = |name: &str| {
            let path = self.checkpoint(run, step).join(name);
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        [read("model.safetensors"), read("optimizer.safetensors")]
    }

    /// Every file of a run and its bytes.
    pub fn contents(&self, run: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut open = vec![self.path(run)];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(path).unwrap());
                }
            }
        }
        files
    }

    /// Copies a run directory.
    pub fn copy_run(&self, from: &str, to: &str) {
        copy(&self.path(from), &self.path(to));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// A number in `0..below` that differs from run to run: the moment a process is killed. The caller prints it.
pub fn some_number(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mixed = (now.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 33) % below
}
