//! `index.json`: which shards make a directory. Written last, so a directory without it is not finished.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Shard, ShardError, VERSION};
use crate::files::write_whole;

/// The name of the index in a shard directory.
pub const INDEX_FILE: &str = "index.json";

/// The contents of a shard directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Format version.
    pub version: u32,
    /// Utterances of all shards.
    pub utterances: u64,
    /// Samples at 16 kHz of all shards.
    pub samples: u64,
    /// The shards, in order.
    pub shards: Vec<ShardInfo>,
}

/// One shard of a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// File name within the directory.
    pub file: String,
    /// Its utterances.
    pub utterances: u64,
    /// Its samples.
    pub samples: u64,
}

impl ShardInfo {
    /// Opens this shard of directory `dir`.
    pub fn open(&self, dir: &Path) -> Result<Shard, ShardError> {
        let shard = Shard::open(&dir.join(&self.file))?;
        if shard.len() as u64 != self.utterances {
            let reason = format!("{} has {} utterances, not {}", self.file, shard.len(), self.utterances);
            return Err(ShardError::BadIndex { path: dir.join(INDEX_FILE), reason });
        }
        Ok(shard)
    }
}

impl Index {
    pub(super) fn new(shards: Vec<ShardInfo>) -> Self {
        let (utterances, samples) = shards.iter().fold((0, 0), |(n, s), x| (n + x.utterances, s + x.samples));
        Self { version: VERSION, utterances, samples, shards }
    }

    /// Reads the index of shard directory `dir`.
    pub fn read(dir: &Path) -> Result<Self, ShardError> {
        let path = dir.join(INDEX_FILE);
        let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ShardError::NoIndex { path: dir.into() },
            _ => ShardError::Unreadable { path: path.clone(), source },
        })?;
        let bad = |reason: String| ShardError::BadIndex { path: path.clone(), reason };
        let index: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if index.version != VERSION {
            return Err(ShardError::Version { path, found: index.version });
        }
        if index != Self::new(index.shards.clone()) {
            return Err(bad("its totals do not match its shards".into()));
        }
        Ok(index)
    }

    /// Writes it into `dir`, completely or not at all.
    pub(super) fn write(&self, dir: &Path) -> Result<(), ShardError> {
        let path = dir.join(INDEX_FILE);
        let failed = |e: std::io::Error| ShardError::Write { path: path.clone(), reason: e.to_string() };
        let mut text = serde_json::to_string_pretty(self).map_err(|e| failed(e.into()))?;
        text.push('\n');
        write_whole(&path, |file| file.write_all(text.as_bytes())).map_err(failed)
    }
}
