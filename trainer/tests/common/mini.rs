//! What the tests of the miniature share.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use echat::data::emotion::Emotion;
use echat::data::mini::config::MiniConfig;
use echat::data::mini::speak::Job;
use echat::data::mini::{Report, write_texts};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The committed configuration of the miniature's texts and voices.
pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mini/corpus.toml")
}

/// The committed configuration, with less of everything.
pub fn small() -> MiniConfig {
    let mut config = MiniConfig::load(&committed(), &[]).unwrap();
    config.sentences = committed().with_file_name("sentences.toml");
    let counts = &mut config.counts;
    (counts.train, counts.valid, counts.test_known, counts.test_unseen) = (40, 10, 10, 20);
    (counts.pairs, counts.words, counts.text) = (6, 30, 400);
    config
}

/// Writes its texts.
pub fn make(config: &MiniConfig, out: &Path) -> Report {
    write_texts(config, out).unwrap()
}

/// The binary in the workspace's root, where it finds itself on the PATH as configs/mini/synth.toml wants it.
pub fn echat(args: &[&str]) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_echat"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(binary.parent().unwrap().to_path_buf()).chain(std::env::split_paths(&path));
    let mut command = Command::new(binary);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).args(args);
    command.env("PATH", std::env::join_paths(folders).unwrap());
    command
}

/// Its standard output, if all went well.
pub fn said(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Its one line of error.
pub fn complaint(output: Output) -> String {
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.lines().count() == 1, "{error}");
    error
}

/// The spoken corpus of `texts` in `out`.
pub fn build(texts: &Path, out: &Path, concurrency: usize) -> String {
    let (folder, threads) = (format!("texts.folder={}", texts.display()), format!("speech.concurrency={concurrency}"));
    let out = out.display().to_string();
    let args = ["synth", "configs/mini/synth.toml", &out, "--set", &folder, "--set", &threads];
    said(echat(&args).output().unwrap())
}

/// Every file below `root`, by its path there.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// The lines of a part.
pub fn read(out: &Path, part: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join(format!("{part}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Something to be spoken.
pub fn job(id: &str, text: &str, emotion: Emotion, voice: &str) -> Job {
    Job { id: id.into(), text: text.into(), emotion, voice: voice.into() }
}
