//! Feature shards: safetensors files of audio and text, memory-mapped. `docs/shards.md` describes the format.

mod index;
mod lengths;
mod map;
mod reader;
mod writer;

use std::path::PathBuf;

pub use index::{INDEX_FILE, Index, ShardInfo};
pub use lengths::{LENGTHS_FILE, LengthTable, Lengths};
pub(crate) use map::Map;
pub use map::say_truncated;
pub use reader::Shard;
pub use writer::ShardWriter;
pub(crate) use writer::write_index;

use super::emotion::Emotion;
use super::utterance::Utterance;

/// The version of the format this build writes and reads.
pub const VERSION: u32 = 1;
/// The one key of the safetensors metadata; its value is JSON.
const METADATA_KEY: &str = "echat_shard";
/// The emotion id of an utterance that has none.
const NO_EMOTION: u8 = 255;
/// The text columns, in the order the checksum of an utterance covers them.
const COLUMNS: [&str; 5] = ["id", "text", "response", "speaker", "context"];
/// The columns every shard has.
const REQUIRED: usize = 2;

/// The value of the metadata key.
#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    version: u32,
    utterances: u64,
    sample_rate: u32,
    /// CRC-32 of each tensor's bytes.
    crc32: std::collections::BTreeMap<String, u32>,
}

/// What is wrong with a shard. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The operating system does not give us the file.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The header and the length of the file do not agree.
    #[error("{path}: truncated or damaged shard ({reason}); make it again with `echat prepare`")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What safetensors said.
        reason: String,
    },
    /// A safetensors file that is something else.
    #[error("{path}: not a feature shard: {reason}")]
    NotAShard {
        /// The file.
        path: PathBuf,
        /// What is missing or different.
        reason: String,
    },
    /// Written by a newer (or unknown) echat.
    #[error(
        "{path}: shard format version {found}, but this build reads version {VERSION}; make it again with `echat prepare`"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A tensor's bytes are not what was written.
    #[error(
        "{path}: damaged: tensor `{tensor}` does not match its checksum; make the shard again with `echat prepare`"
    )]
    TensorChecksum {
        /// The file.
        path: PathBuf,
        /// Which tensor.
        tensor: String,
    },
    /// An utterance's bytes are not what was written.
    #[error("{path}: damaged: utterance {index}: {reason}; make the shard again with `echat prepare`")]
    Utterance {
        /// The file.
        path: PathBuf,
        /// Which utterance of the shard, from 0.
        index: usize,
        /// What does not fit.
        reason: String,
    },
    /// A directory that `echat prepare` did not finish.
    #[error("{path}: no {INDEX_FILE} in this directory: not made by `echat prepare`, or it did not finish")]
    NoIndex {
        /// The directory.
        path: PathBuf,
    },
    /// A directory made before there were tables of lengths.
    #[error(
        "{path}: no {LENGTHS_FILE} in this directory, which data.placement = \"node_local\" plans by: make it again with \
         `echat prepare`"
    )]
    NoLengths {
        /// The directory.
        path: PathBuf,
    },
    /// An index that is not what was written.
    #[error("{path}: damaged index: {reason}")]
    BadIndex {
        /// The index.
        path: PathBuf,
        /// What the parser said, or which shard differs.
        reason: String,
    },
    /// A shard and its directory's table of lengths that do not belong together.
    #[error("{path}: utterance {index} is not as long as {LENGTHS_FILE} says; copy both from where they were prepared")]
    OtherLengths {
        /// The shard.
        path: PathBuf,
        /// Which utterance of the shard, from 0.
        index: usize,
    },
    /// The place to write to is taken.
    #[error("{path}: the output directory is not empty; give another, or delete it first")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Writing failed, as on a full disk.
    #[error("{path}: cannot be written: {reason}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}

/// CRC-32 of an utterance: its samples (little-endian), its emotion id, and each text column followed by a zero byte.
fn checksum(audio: &[u8], emotion: u8, columns: [&[u8]; 5]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(audio);
    hasher.update(&[emotion]);
    for column in columns {
        hasher.update(column);
        hasher.update(&[0]);
    }
    hasher.finalize()
}

fn emotion_id(emotion: Option<Emotion>) -> u8 {
    emotion.map_or(NO_EMOTION, |e| e as u8)
}

/// The text columns of `utterance`; an absent text is an empty one.
fn columns<'a>(utterance: &Utterance<'a>) -> [&'a str; 5] {
    let or_empty = Option::unwrap_or_default;
    [
        utterance.id,
        utterance.text,
        or_empty(utterance.response),
        or_empty(utterance.speaker),
        or_empty(utterance.context),
    ]
}
