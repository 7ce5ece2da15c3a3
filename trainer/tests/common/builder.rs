//! What the tests of the corpus builder share: texts, a configuration, the binary.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The keys the server is told; neither may ever be seen.
pub const CHAT_KEY: &str = "sk-secret-0123456789";
pub const SPEECH_KEY: &str = "azure-secret-0123456789";
/// In the order of the texts.
pub const EMOTIONS: [&str; 5] = ["cheerful", "fearful", "angry", "sad", "neutral"];

/// A directory with texts and a configuration.
pub struct Site {
    dir: TempDir,
}

impl Site {
    /// `texts` texts in TSV, and a configuration that asks `url` about them.
    pub fn new(url: &str, texts: usize) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        let lines = (0..texts).map(|i| format!("q{i:02}\t第{i}句话说给你听\t{}\n", EMOTIONS[i % 5]));
        site.write("texts.tsv", &format!("id\ttext\temotion\n{}", lines.collect::<String>()));
        site.write("synth.toml", &config(url));
        site
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// `echat synth synth.toml OUT ARGS`, with both keys in its environment.
    pub fn command(&self, out: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echat"));
        command.current_dir(self.root()).arg("synth").arg("synth.toml").arg(out).args(args);
        command.env("OPENAI_API_KEY", CHAT_KEY).env("AZURE_SPEECH_KEY", SPEECH_KEY);
        for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    /// Runs it to its end; neither key may be in what it says or writes.
    pub fn run(&self, out: &str, args: &[&str]) -> Said {
        let said = Said::new(self.command(out, args).output().unwrap());
        for key in [CHAT_KEY, SPEECH_KEY] {
            assert!(!said.stdout.contains(key) && !said.stderr.contains(key), "{said:?}");
            for (path, bytes) in files(&self.path(out)) {
                assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()), "{}", path.display());
            }
        }
        said
    }

    /// The lines of a JSONL file in `out`.
    pub fn lines(&self, out: &str, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What a finished process said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Its standard output, if all went well.
    pub fn good(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// Its one line of error.
    pub fn error(&self) -> &str {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(
            self.code == Some(1) && lines.len() == 1 && self.stderr.ends_with(&format!("{}\n", lines[0])),
            "{self:?}"
        );
        lines[0]
    }
}

/// Quick to try again; no rate limits.
pub fn config(url: &str) -> String {
    format!(
        r#"
[texts]
files = ["texts.tsv"]

[chat]
base_url = "{url}/v1"
requests_per_minute = 0
timeout_seconds = 2.0

[speech]
backend = "azure"
timeout_seconds = 2.0

[speech.azure]
endpoint = "{url}"
requests_per_minute = 0

[split]
counts = {{ valid = 3, test = 5 }}

[limits]
backoff_seconds = 0.01

[prices]
prompt_per_1k_tokens = 0.5
response_per_1k_tokens = 1.5
speech_per_1m_characters = 16
"#
    )
}

/// Every file below `root`, by its path there.
pub fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => drop(all.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap())),
            }
        }
    }
    all
}

/// The same without the journal, whose lines are in the order in which replies came.
pub fn corpus(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = files(root);
    all.remove(Path::new("journal.jsonl")).unwrap();
    all
}
