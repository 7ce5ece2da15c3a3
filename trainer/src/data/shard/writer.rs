//! Writing a directory of shards.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use super::index::{Index, ShardInfo};
use super::{COLUMNS, Header, METADATA_KEY, NO_EMOTION, REQUIRED, ShardError, VERSION, checksum, columns, emotion_id};
use crate::data::audio::SAMPLE_RATE;
use crate::data::utterance::Utterance;
use crate::files::{Bytes, is_vacant, write_safetensors, write_whole};

/// Writes utterances, in the order they come, into `shard-00000.safetensors`, `shard-00001.safetensors`, …
///
/// The same utterances give the same bytes. A shard appears under its name only when it is complete and on disk, and
/// the directory is valid only after [`ShardWriter::finish`].
pub struct ShardWriter {
    dir: PathBuf,
    max_bytes: usize,
    /// The run of shards this writes, if others write the rest.
    part: Option<usize>,
    buffer: Buffer,
    shards: Vec<ShardInfo>,
}

impl ShardWriter {
    /// Into `dir`, which is made if need be and must be empty; a new shard begins before one exceeds `max_bytes`.
    pub fn create(dir: &Path, max_bytes: usize) -> Result<Self, ShardError> {
        let failed = |e: std::io::Error| ShardError::Write { path: dir.into(), reason: e.to_string() };
        fs::create_dir_all(dir).map_err(failed)?;
        if !is_vacant(dir).map_err(failed)? {
            return Err(ShardError::NotEmpty { path: dir.into() });
        }
        Ok(Self { dir: dir.into(), max_bytes, part: None, buffer: Buffer::default(), shards: Vec::new() })
    }

    /// One run of the shards of `dir`: `shard-00012.safetensors` for part 12, and if it exceeds `max_bytes`
    /// `shard-00012-1.safetensors`, … Such a run ends with [`ShardWriter::finish_part`].
    pub fn part(dir: &Path, part: usize, max_bytes: usize) -> Self {
        Self { dir: dir.into(), max_bytes, part: Some(part), buffer: Buffer::default(), shards: Vec::new() }
    }

    /// Appends `utterance`.
    pub fn push(&mut self, utterance: &Utterance) -> Result<(), ShardError> {
        if self.buffer.count > 0 && self.buffer.bytes() + Buffer::cost(utterance) > self.max_bytes {
            self.flush()?;
        }
        self.buffer.push(utterance);
        Ok(())
    }

    /// Writes what is left, and the index.
    pub fn finish(self) -> Result<Index, ShardError> {
        let dir = self.dir.clone();
        write_index(&dir, self.finish_part()?)
    }

    /// Writes what is left, without an index.
    pub fn finish_part(mut self) -> Result<Vec<ShardInfo>, ShardError> {
        if self.buffer.count > 0 {
            self.flush()?;
        }
        Ok(self.shards)
    }

    fn flush(&mut self) -> Result<(), ShardError> {
        let buffer = std::mem::take(&mut self.buffer);
        let name = match (self.part, self.shards.len()) {
            (None, n) | (Some(n), 0) => format!("shard-{n:05}.safetensors"),
            (Some(part), n) => format!("shard-{part:05}-{n}.safetensors"),
        };
        let path = self.dir.join(&name);
        buffer.write(&path).map_err(|e| ShardError::Write { path, reason: e.to_string() })?;
        let (utterances, samples) = (buffer.count as u64, buffer.audio.len() as u64 / 2);
        self.shards.push(ShardInfo { file: name, utterances, samples });
        Ok(())
    }
}

/// Makes `dir`, which holds `shards`, a corpus: writes the table of lengths and, last, the index.
pub(crate) fn write_index(dir: &Path, shards: Vec<ShardInfo>) -> Result<Index, ShardError> {
    let index = Index::new(shards);
    super::lengths::write(dir, &index)?;
    index.write(dir)?;
    Ok(index)
}

/// A shard in memory: every tensor as its little-endian bytes.
struct Buffer {
    count: usize,
    audio: Vec<u8>,
    audio_offsets: Vec<u8>,
    columns: [(Vec<u8>, Vec<u8>); 5],
    emotion: Vec<u8>,
    crc32: Vec<u8>,
}

impl Default for Buffer {
    fn default() -> Self {
        let first = || 0u64.to_le_bytes().to_vec();
        Self {
            count: 0,
            audio: Vec::new(),
            audio_offsets: first(),
            columns: std::array::from_fn(|_| (Vec::new(), first())),
            emotion: Vec::new(),
            crc32: Vec::new(),
        }
    }
}

impl Buffer {
    /// The bytes `utterance` adds.
    fn cost(utterance: &Utterance) -> usize {
        let text: usize = columns(utterance).iter().map(|c| c.len()).sum();
        2 * utterance.audio.len() + text + 8 * (1 + COLUMNS.len()) + 5
    }

    fn bytes(&self) -> usize {
        let text: usize = self.columns.iter().map(|(bytes, offsets)| bytes.len() + offsets.len()).sum();
        self.audio.len() + self.audio_offsets.len() + text + 5 * self.count
    }

    fn push(&mut self, utterance: &Utterance) {
        let start = self.audio.len();
        self.audio.extend(utterance.audio.iter().flat_map(|x| x.to_le_bytes()));
        self.audio_offsets.extend((self.audio.len() as u64 / 2).to_le_bytes());
        let texts = columns(utterance);
        for ((bytes, offsets), text) in self.columns.iter_mut().zip(texts) {
            bytes.extend(text.as_bytes());
            offsets.extend((bytes.len() as u64).to_le_bytes());
        }
        let emotion = emotion_id(utterance.emotion);
        self.emotion.push(emotion);
        let crc = checksum(&self.audio[start..], emotion, texts.map(str::as_bytes));
        self.crc32.extend(crc.to_le_bytes());
        self.count += 1;
    }

    /// Name, dtype, length and bytes of every tensor. An optional column nobody uses is left out.
    fn tensors(&self) -> Vec<(String, Dtype, usize, &[u8])> {
        let mut tensors = vec![
            ("audio".to_string(), Dtype::I16, self.audio.len() / 2, &self.audio[..]),
            ("audio_offsets".into(), Dtype::U64, self.count + 1, &self.audio_offsets),
            ("crc32".into(), Dtype::U32, self.count, &self.crc32),
        ];
        for (i, (name, (bytes, offsets))) in COLUMNS.iter().zip(&self.columns).enumerate() {
            if i < REQUIRED || !bytes.is_empty() {
                tensors.push((name.to_string(), Dtype::U8, bytes.len(), bytes));
                tensors.push((format!("{name}_offsets"), Dtype::U64, self.count + 1, offsets));
            }
        }
        if self.emotion.iter().any(|&e| e != NO_EMOTION) {
            tensors.push(("emotion".into(), Dtype::U8, self.count, &self.emotion));
        }
        tensors
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let tensors = self.tensors();
        let crc32: BTreeMap<_, _> = tensors.iter().map(|(n, _, _, b)| (n.clone(), crc32fast::hash(b))).collect();
        let header = Header { version: VERSION, utterances: self.count as u64, sample_rate: SAMPLE_RATE, crc32 };
        let metadata = HashMap::from([(METADATA_KEY.to_string(), serde_json::to_string(&header)?)]);
        let views = tensors.into_iter().map(|(name, dtype, len, data)| (name, Bytes { dtype, shape: vec![len], data }));
        write_whole(path, |file| write_safetensors(file, views, metadata))
    }
}
