//! What a frozen encoder makes of a corpus, computed once (`echat cache`): per utterance the speech layer sum and the layers' means over time.
//!
//! ```text
//! DIR/features.json                 of what, by which encoder, with which settings
//! DIR/features-00000.safetensors    a run of the corpus's utterances: speech, speech_offsets, means, utterance, crc32
//! ```
//! A file appears under its name only when it is complete, so a build that was interrupted goes on where it was. Whatever differs between the
//! corpus, encoder or settings and those of `features.json` makes the cache useless, and it is refused.

mod reader;
mod writer;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use echat_kernels::SeqLens;
use serde::{Deserialize, Serialize};

use super::sampler::{Cost, Group};
use super::shard::ShardError;
use crate::files::{self, Hold, is_vacant, remove_temporaries, write_whole};

pub use reader::FeatureCache;
pub use writer::PartWriter;

/// What says whose a cache is.
pub const IDENTITY_FILE: &str = "features.json";
/// The version of the format.
const VERSION: u32 = 2;
/// The one key of the safetensors metadata.
const METADATA_KEY: &str = "echat_features";
/// Seconds of speech in a file: at 50 frames a second and 1024 numbers a frame, 120 MB of f32.
const PART_SECONDS: f64 = 600.0;

/// Whose a cache is: what its bytes follow from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the format.
    pub version: u32,
    /// Fingerprint of the encoder's weights and the speech layer weights.
    pub encoder: String,
    /// The encoder's settings.
    pub settings: String,
    /// Fingerprint of the recordings, and how many.
    pub corpus: String,
    /// `F32` or `BF16`.
    pub dtype: String,
    /// Whether the layers' means are there.
    pub means: bool,
}

impl Identity {
    /// With the version of this build.
    pub fn new(encoder: String, settings: String, corpus: String, dtype: DType, means: bool) -> Self {
        Self { version: VERSION, encoder, settings, corpus, dtype: dtype.as_str().to_uppercase(), means }
    }

    /// In what the features are held.
    pub fn dtype(&self) -> DType {
        if self.dtype == "BF16" { DType::BF16 } else { DType::F32 }
    }

    /// What is not the same in `other`.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let differs = [
            (self.version != other.version, "the format's version"),
            (self.encoder != other.encoder, "the encoder's weights"),
            (self.settings != other.settings, "the encoder's settings"),
            (self.corpus != other.corpus, "the corpus"),
            (self.dtype != other.dtype, "data.cache_precision"),
            (self.means != other.means, "model.emotion"),
        ];
        differs.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
    }
}

/// What is wrong with a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Made of something else.
    #[error("{path}: this cache is stale: {what} changed since it was made; delete it, or give another data.cache")]
    Stale {
        /// The directory.
        path: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// A directory with other things in it.
    #[error("{path}: not empty, and no cache of features; give another data.cache, or delete it first")]
    NotACache {
        /// The directory.
        path: PathBuf,
    },
    /// Two jobs would write the same files.
    #[error("{path}: another job is making this cache; wait for it, or give another data.cache")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// A file that is not what was written.
    #[error("{path}: damaged: {reason}; delete this file and run `echat cache` again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ShardError),
    /// A file that cannot be written.
    #[error("{path}: cannot be written: {reason}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}

impl CacheError {
    fn write(path: &Path, reason: impl ToString) -> Self {
        Self::Write { path: path.into(), reason: reason.to_string() }
    }
}

/// A file of a cache: utterances of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPlan {
    /// Which node has their recordings.
    pub node: usize,
    /// Their numbers in the corpus, ascending.
    pub utterances: Vec<u32>,
}

/// How a corpus is cut into files: a pure function.
pub fn parts(costs: &[Cost], groups: &[Group]) -> Vec<PartPlan> {
    let mut parts = Vec::new();
    for group in groups {
        let (mut utterances, mut seconds) = (Vec::new(), 0.0);
        for u in group.ranges.iter().cloned().flatten() {
            let cost = f64::from(costs[u as usize].seconds);
            if seconds + cost > PART_SECONDS && !utterances.is_empty() {
                parts.push(PartPlan { node: group.node, utterances: std::mem::take(&mut utterances) });
                seconds = 0.0;
            }
            utterances.push(u);
            seconds += cost;
        }
        if !utterances.is_empty() {
            parts.push(PartPlan { node: group.node, utterances });
        }
    }
    parts
}

/// The file of part `part` of the cache in `dir`.
pub fn part_path(dir: &Path, part: usize) -> PathBuf {
    dir.join(format!("features-{part:05}.safetensors"))
}

/// Keeps other jobs from making the cache in `dir` as long as the hold lives. One process of a job calls it, before any calls [`claim`].
pub fn hold(dir: &Path) -> Result<Hold, CacheError> {
    fs::create_dir_all(dir).map_err(|e| CacheError::write(dir, e))?;
    if !dir.join(IDENTITY_FILE).exists() {
        expect_vacant(dir)?;
    }
    files::hold(dir).map_err(|e| CacheError::write(dir, e))?.ok_or_else(|| CacheError::Busy { path: dir.into() })
}

fn expect_vacant(dir: &Path) -> Result<(), CacheError> {
    match is_vacant(dir).map_err(|e| CacheError::write(dir, e))? {
        true => Ok(()),
        false => Err(CacheError::NotACache { path: dir.into() }),
    }
}

/// Makes `dir` the cache `identity` describes, or finds that it is: errors if it is another's. Removes what a killed build left half written.
pub fn claim(dir: &Path, identity: &Identity) -> Result<(), CacheError> {
    let path = dir.join(IDENTITY_FILE);
    fs::create_dir_all(dir).map_err(|e| CacheError::write(dir, e))?;
    match fs::read(&path) {
        Ok(bytes) => check(dir, identity, &bytes)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            expect_vacant(dir)?;
            let text = serde_json::to_string_pretty(identity).map_err(|e| CacheError::write(&path, e))? + "\n";
            write_whole(&path, |file| file.write_all(text.as_bytes())).map_err(|e| CacheError::write(&path, e))?;
        }
        Err(source) => return Err(ShardError::Unreadable { path, source }.into()),
    }
    remove_temporaries(dir).map_err(|e| CacheError::write(dir, e))
}

/// Errors if the cache in `dir`, whose identity file holds `bytes`, is not the one `identity` describes.
fn check(dir: &Path, identity: &Identity, bytes: &[u8]) -> Result<(), CacheError> {
    let theirs: Identity = serde_json::from_slice(bytes)
        .map_err(|e| CacheError::Damaged { path: dir.join(IDENTITY_FILE), reason: e.to_string() })?;
    match identity.difference(&theirs) {
        Some(what) => Err(CacheError::Stale { path: dir.into(), what }),
        None => Ok(()),
    }
}

/// The features of several utterances, packed.
#[derive(Clone, Debug)]
pub struct Packed {
    /// `[t, d]`.
    pub speech: Tensor,
    /// Which rows are whose.
    pub lens: SeqLens,
    /// `[L, n, d]`.
    pub means: Option<Tensor>,
}

/// Little-endian bytes as a tensor.
fn tensor(bytes: &[u8], shape: &[usize], dtype: DType) -> candle_core::Result<Tensor> {
    Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_one_node_and_about_as_long_and_hold_everything_once() {
        let cost = |seconds| Cost { seconds, tokens: 3 };
        let costs: Vec<Cost> = (0..500).map(|i| cost(1.0 + (i % 9) as f32)).chain([cost(2000.0), cost(1.0)]).collect();
        let group = |node, ranges: &[std::ops::Range<u32>]| Group { component: 0, node, ranges: ranges.to_vec() };
        let parts = parts(&costs, &[group(0, &[0..200, 300..350]), group(1, &[200..300, 350..502])]);
        let mut all: Vec<u32> = parts.iter().flat_map(|part| part.utterances.iter().copied()).collect();
        assert!(parts.iter().all(|part| part.utterances.is_sorted()));
        all.sort_unstable();
        assert!(all.into_iter().eq(0..502));
        for part in &parts {
            let seconds: f32 = part.utterances.iter().map(|&u| costs[u as usize].seconds).sum();
            assert!(f64::from(seconds) <= PART_SECONDS || part.utterances == [500], "{seconds}");
            let first = part.utterances[0];
            assert_eq!(part.node, usize::from((200..300).contains(&first) || first >= 350));
        }
    }
}
