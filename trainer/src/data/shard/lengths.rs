//! `lengths.safetensors`: how long every utterance of a shard directory is, for planning without its shards.
//!
//! It lies beside `index.json`, so that a node that has some of the shards can plan steps over all of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::Dtype;

use super::index::Index;
use super::map::Map;
use super::reader::{Layout, u32_at};
use super::{Header, METADATA_KEY, ShardError, VERSION};
use crate::data::Target;
use crate::data::audio::SAMPLE_RATE;
use crate::files::{Bytes, write_safetensors, write_whole};

/// The name of the table in a shard directory.
pub const LENGTHS_FILE: &str = "lengths.safetensors";
/// Its tensors, U32 of an item an utterance, in the order of [`Lengths`].
const COLUMNS: [&str; 4] = ["samples", "text", "response", "context"];

/// How long an utterance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// 16 kHz samples; 0 for a text-only utterance.
    pub samples: u32,
    /// Bytes of its text.
    pub text: u32,
    /// Bytes of its response.
    pub response: u32,
    /// Bytes of its context.
    pub context: u32,
}

impl Lengths {
    /// Bytes of what the decoder learns to write.
    pub fn target(&self, target: Target) -> u32 {
        match target {
            Target::Text => self.text,
            Target::Response => self.response,
        }
    }

    fn columns(&self) -> [u32; 4] {
        [self.samples, self.text, self.response, self.context]
    }
}

/// The lengths of all utterances of a directory, in the order of its shards.
pub struct LengthTable {
    map: Map,
    len: usize,
    /// Where each column is; `None` if all of it is 0.
    columns: [Option<Range<usize>>; 4],
}

impl LengthTable {
    /// Reads and verifies the table of shard directory `dir`, whose index is `index`.
    pub fn open(dir: &Path, index: &Index) -> Result<Self, ShardError> {
        let path = dir.join(LENGTHS_FILE);
        if !path.exists() {
            return Err(ShardError::NoLengths { path: dir.into() });
        }
        let map = Map::open(&path)?;
        let (start, metadata) = map.header()?;
        let layout = Layout::new(&map, start, &metadata);
        let (header, tensors) = layout.header()?;
        if header.utterances != index.utterances {
            let reason = format!("it is of {} utterances, {} of the index", header.utterances, index.utterances);
            return Err(layout.not_a_shard(reason));
        }
        let len = usize::try_from(header.utterances).map_err(|_| layout.not_a_shard("impossibly many utterances"))?;
        let mut columns = [const { None }; 4];
        for (column, name) in columns.iter_mut().zip(COLUMNS) {
            if metadata.info(name).is_some() {
                *column = Some(layout.tensor(name, Dtype::U32, Some(len))?);
            }
        }
        for (tensor, range, crc) in tensors {
            if crc32fast::hash(&map[range]) != crc {
                return Err(ShardError::TensorChecksum { path, tensor });
            }
        }
        Ok(Self { map, len, columns })
    }

    /// The number of utterances.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Those of utterance `i` of the directory.
    ///
    /// # Panics
    /// If `i` is not below [`LengthTable::len`].
    pub fn get(&self, i: usize) -> Lengths {
        let column = |c: usize| self.columns[c].as_ref().map_or(0, |range| u32_at(&self.map[range.clone()], i));
        Lengths { samples: column(0), text: column(1), response: column(2), context: column(3) }
    }
}

/// Writes the table of the shards of `index` into `dir`, from what they say themselves, completely or not at all.
pub(super) fn write(dir: &Path, index: &Index) -> Result<(), ShardError> {
    let mut columns: [Vec<u8>; 4] = std::array::from_fn(|_| Vec::new());
    for info in &index.shards {
        let shard = info.open(dir)?;
        for i in 0..shard.len() {
            for (column, length) in columns.iter_mut().zip(shard.lengths(i).columns()) {
                column.extend(length.to_le_bytes());
            }
        }
    }
    let path = dir.join(LENGTHS_FILE);
    serialize(&columns, index.utterances, &path).map_err(|e| ShardError::Write { path, reason: e.to_string() })
}

fn serialize(columns: &[Vec<u8>; 4], utterances: u64, path: &Path) -> io::Result<()> {
    let used = || COLUMNS.iter().zip(columns).filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0));
    let crc32: BTreeMap<_, _> = used().map(|(name, bytes)| (name.to_string(), crc32fast::hash(bytes))).collect();
    let header = Header { version: VERSION, utterances, sample_rate: SAMPLE_RATE, crc32 };
    let metadata = HashMap::from([(METADATA_KEY.to_string(), serde_json::to_string(&header)?)]);
    let views = used().map(|(name, data)| (*name, Bytes { dtype: Dtype::U32, shape: vec![data.len() / 4], data }));
    write_whole(path, |file| write_safetensors(file, views, metadata))
}
