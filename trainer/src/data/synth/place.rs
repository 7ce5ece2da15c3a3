//! The output directory: whose it is, and where things lie in it.

use super::config::{Backend, SynthConfig};
use super::error::SynthError;
use super::texts::Item;
use crate::files::{is_vacant, write_whole};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What the run asks for; written first.
const RUN_FILE: &str = "run.json";
/// Written last.
const STATS_FILE: &str = "stats.json";

/// An output directory.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub root: PathBuf,
}

/// What is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A run that asked for the same.
    Begun,
    /// The same, and it came to its end.
    Finished,
    /// A run that asked for something else: the first key that differs.
    Other(String),
}

impl Place {
    /// At `root`; nothing is touched.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal.jsonl")
    }

    /// Unfinished recordings and what programs say.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The statistics, whose presence says that the run is finished.
    pub fn stats(&self) -> PathBuf {
        self.root.join(STATS_FILE)
    }

    /// What is there, for a run that asks for `identity`.
    pub fn look(&self, identity: &Value) -> Result<Found, SynthError> {
        let path = self.root.join(RUN_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return self.nothing(),
            Err(e) => return Err(SynthError::io("read", &path)(e)),
        };
        let there: Value = serde_json::from_slice(&bytes).map_err(|e| SynthError::io("read", &path)(e.into()))?;
        Ok(match (difference(&there, identity, ""), self.stats().exists()) {
            (Some(key), _) => Found::Other(key),
            (None, true) => Found::Finished,
            (None, false) => Found::Begun,
        })
    }

    /// Without a run there must be nothing at all, but for a run file that was never renamed.
    fn nothing(&self) -> Result<Found, SynthError> {
        match is_vacant(&self.root) {
            Ok(true) => Ok(Found::Nothing),
            Ok(false) => Err(SynthError::NotEmpty(self.root.clone())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
            Err(e) => Err(SynthError::io("read", &self.root)(e)),
        }
    }

    /// Makes the place that of a run which asks for `identity`.
    pub fn claim(&self, identity: &Value) -> Result<(), SynthError> {
        for directory in [&self.root, &self.scratch()] {
            std::fs::create_dir_all(directory).map_err(SynthError::io("create", directory))?;
        }
        self.write(&self.root.join(RUN_FILE), format!("{identity:#}\n").as_bytes())
    }

    /// Removes what an earlier run may have finished: the statistics first, as they say that it did, then its parts.
    pub fn reopen(&self) -> Result<(), SynthError> {
        let (stats, run) = (self.stats(), self.root.join(RUN_FILE));
        std::fs::remove_file(&stats).or_else(absent).map_err(SynthError::io("remove", &stats))?;
        let bytes = std::fs::read(&run).map_err(SynthError::io("read", &run))?;
        let there: Value = serde_json::from_slice(&bytes).map_err(|e| SynthError::io("read", &run)(e.into()))?;
        let parts = there["parts"].as_array().into_iter().flatten().filter_map(Value::as_str);
        parts.into_iter().try_for_each(|part| self.clear_part(part))
    }

    /// Removes the manifest and the shards of a part, whole or not.
    pub fn clear_part(&self, part: &str) -> Result<(), SynthError> {
        let (manifest, shards) = (self.root.join(format!("{part}.jsonl")), self.root.join(part));
        std::fs::remove_file(&manifest).or_else(absent).map_err(SynthError::io("remove", &manifest))?;
        std::fs::remove_dir_all(&shards).or_else(absent).map_err(SynthError::io("remove", &shards))
    }

    /// Writes a file that is whole or not there.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), SynthError> {
        write_whole(path, |file| file.write_all(bytes)).map_err(SynthError::io("write", path))
    }
}

/// What is not there need not be removed.
fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// What decides the corpus: texts, what is asked about them, split, shards. How it is asked (limits, prices, keys, addresses) is not in it.
pub fn identity(config: &SynthConfig, items: &[Item], parts: &[(String, usize)]) -> Value {
    let mut texts = Sha256::new();
    items.iter().for_each(|item| texts.update(serde_json::to_vec(item).unwrap_or_default()));
    let texts: String = texts.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let chat = config.chat.as_ref().map(|c| {
        json!({"model": c.model, "system": c.system, "user": c.user, "temperature": c.temperature,
               "max_tokens": c.max_tokens, "seed": c.seed})
    });
    let (azure, command) = (&config.speech.azure, &config.speech.command);
    let backend = match config.speech.backend {
        Backend::Azure => json!({"output_format": azure.output_format, "language": azure.language,
                                 "voices": azure.voices, "styles": azure.styles}),
        Backend::Command => json!({"run": command.run, "persistent": command.persistent, "voices": command.voices,
                                   "styles": command.styles}),
    };
    let speech = json!({"backend": config.speech.backend, "seed": config.speech.seed,
                        config.speech.backend.to_string(): backend});
    let parts: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    json!({"version": 1, "texts": texts, "parts": parts, "chat": chat, "speech": speech, "split": config.split,
           "shards": config.shards})
}

/// The first key at which two values differ.
fn difference(a: &Value, b: &Value, at: &str) -> Option<String> {
    let (Value::Object(left), Value::Object(right)) = (a, b) else { return (a != b).then(|| at.to_string()) };
    let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
    let name = |key: &str| if at.is_empty() { key.to_string() } else { format!("{at}.{key}") };
    keys.into_iter().find_map(|key| {
        let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        difference(&of(left), &of(right), &name(key))
    })
}
