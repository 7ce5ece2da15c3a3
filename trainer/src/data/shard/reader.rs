//! Reading a shard through a memory map.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata};

use super::map::Map;
use super::{COLUMNS, Header, Lengths, METADATA_KEY, NO_EMOTION, REQUIRED, ShardError, VERSION, checksum};
use crate::data::audio::SAMPLE_RATE;
use crate::data::emotion::Emotion;
use crate::data::utterance::Utterance;

/// An open shard. Nothing is held in memory but the map: offsets are read where they lie.
///
/// Opening reads and verifies the audio offsets (8 bytes an utterance) and checks where the other tables begin and
/// end; [`Shard::get`] verifies the utterance it returns; [`Shard::verify`] reads everything.
pub struct Shard {
    map: Map,
    len: usize,
    audio: Table,
    columns: [Option<Table>; 5],
    emotion: Option<Range<usize>>,
    crc32: Range<usize>,
    /// Name, bytes and checksum of every tensor.
    tensors: Vec<(String, Range<usize>, u32)>,
}

/// Values of varying length: utterance `i` has elements `offsets[i]..offsets[i + 1]`.
struct Table {
    /// Where the values' bytes are in the map.
    values: Range<usize>,
    /// Where the `len + 1` u64 offsets are.
    offsets: Range<usize>,
    /// Bytes per element.
    width: usize,
}

impl Shard {
    /// Opens the shard at `path`.
    pub fn open(path: &Path) -> Result<Self, ShardError> {
        let map = Map::open(path)?;
        let (start, metadata) = map.header()?;
        let layout = Layout::new(&map, start, &metadata);
        let (header, tensors) = layout.header()?;
        let len = usize::try_from(header.utterances).map_err(|_| layout.not_a_shard("impossibly many utterances"))?;
        let crc32 = layout.tensor("crc32", Dtype::U32, Some(len))?;
        let audio = layout.table("audio", Dtype::I16, 2, len)?;
        let mut columns = [const { None }; 5];
        for (i, name) in COLUMNS.iter().enumerate() {
            if i < REQUIRED || metadata.info(name).is_some() {
                columns[i] = Some(layout.table(name, Dtype::U8, 1, len)?);
            }
        }
        let emotion = metadata.info("emotion").map(|_| layout.tensor("emotion", Dtype::U8, Some(len))).transpose()?;
        let shard = Self { map, len, audio, columns, emotion, crc32, tensors };
        shard.verify_tensor("audio_offsets")?;
        shard.check_tables()?;
        shard.map.release();
        Ok(shard)
    }

    /// The number of utterances.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// How long utterance `index` is, from the offsets alone. What is longer than a u32 counts as 2³²-1.
    pub fn lengths(&self, index: usize) -> Lengths {
        let length = |table: &Table| {
            let (start, end) = self.bounds(table, index);
            u32::try_from(end.saturating_sub(start)).unwrap_or(u32::MAX)
        };
        let [_, text, response, _, context] = self.columns.each_ref().map(|table| table.as_ref().map_or(0, length));
        Lengths { samples: length(&self.audio), text, response, context }
    }

    /// Has the system read the audio of utterance `index` soon.
    pub fn will_need(&self, index: usize) {
        let (start, end) = self.bounds(&self.audio, index);
        let byte = |offset: u64| self.audio.values.start + (offset as usize).saturating_mul(self.audio.width);
        let (start, end) = (byte(start), byte(end).min(self.audio.values.end));
        if start < end {
            self.map.will_need(start..end);
        }
    }

    /// Takes what was read so far out of this process's memory; it stays in the page cache.
    pub(crate) fn release(&self) {
        self.map.release();
    }

    /// Utterance `index`, checked against its checksum.
    ///
    /// # Panics
    /// If `index` is not below [`Shard::len`].
    pub fn get(&self, index: usize) -> Result<Utterance<'_>, ShardError> {
        let audio = self.value(&self.audio, index)?;
        let mut texts = [&[] as &[u8]; 5];
        for (text, table) in texts.iter_mut().zip(&self.columns) {
            if let Some(table) = table {
                *text = self.value(table, index)?;
            }
        }
        let emotion = self.emotion.as_ref().map_or(NO_EMOTION, |range| self.map[range.start + index]);
        if checksum(audio, emotion, texts) != self.crc(index) {
            return Err(self.damaged(index, "its bytes do not match its checksum"));
        }
        self.utterance(index, audio, texts)
    }

    /// The texts of utterance `index` without its audio, and so without a look at its checksum: for planning.
    pub fn texts(&self, index: usize) -> Result<Utterance<'_>, ShardError> {
        let mut texts = [&[] as &[u8]; 5];
        for (text, table) in texts.iter_mut().zip(&self.columns) {
            if let Some(table) = table {
                *text = self.value(table, index)?;
            }
        }
        self.utterance(index, &[], texts)
    }

    fn utterance<'a>(&self, index: usize, audio: &'a [u8], texts: [&'a [u8]; 5]) -> Result<Utterance<'a>, ShardError> {
        let mut strings = [""; 5];
        for (string, text) in strings.iter_mut().zip(texts) {
            *string = str::from_utf8(text).map_err(|_| self.damaged(index, "its text is not UTF-8"))?;
        }
        let [id, text, response, speaker, context] = strings;
        let filled = |text: &'a str| Some(text).filter(|t| !t.is_empty());
        Ok(Utterance {
            id,
            text,
            response: filled(response),
            emotion: self.emotion(index),
            speaker: filled(speaker),
            context: filled(context),
            audio: samples(audio),
        })
    }

    /// The emotion of utterance `index`.
    pub fn emotion(&self, index: usize) -> Option<Emotion> {
        self.emotion.as_ref().and_then(|range| Emotion::from_id(self.map[range.start + index]))
    }

    /// The checksum of its utterances' checksums: another one for other contents.
    pub fn fingerprint(&self) -> u32 {
        self.tensors.iter().find(|(name, ..)| name == "crc32").map_or(0, |(.., crc)| *crc)
    }

    /// Reads every byte and compares it with its checksum.
    pub fn verify(&self) -> Result<(), ShardError> {
        self.tensors.iter().try_for_each(|(name, ..)| self.verify_tensor(name))
    }

    fn verify_tensor(&self, name: &str) -> Result<(), ShardError> {
        let matches = |(tensor, range, crc): &(String, Range<usize>, u32)| {
            tensor == name && crc32fast::hash(&self.map[range.clone()]) == *crc
        };
        match self.tensors.iter().any(matches) {
            true => Ok(()),
            false => Err(ShardError::TensorChecksum { path: self.path().into(), tensor: name.into() }),
        }
    }

    /// The audio offsets never decrease, and every table begins at 0 and ends where its values do.
    fn check_tables(&self) -> Result<(), ShardError> {
        let bad = |reason: &str| ShardError::NotAShard { path: self.path().into(), reason: reason.into() };
        for table in self.columns.iter().flatten().chain([&self.audio]) {
            let count = (table.values.len() / table.width) as u64;
            if self.offset(table, 0) != 0 || self.offset(table, self.len) != count {
                return Err(bad("an offset table does not span its values"));
            }
        }
        let mut previous = 0;
        for bytes in self.map[self.audio.offsets.clone()].chunks_exact(8) {
            let offset = u64_at(bytes, 0);
            if offset < previous {
                return Err(bad("the audio offsets decrease"));
            }
            previous = offset;
        }
        Ok(())
    }

    fn offset(&self, table: &Table, i: usize) -> u64 {
        u64_at(&self.map[table.offsets.clone()], i)
    }

    fn bounds(&self, table: &Table, index: usize) -> (u64, u64) {
        (self.offset(table, index), self.offset(table, index + 1))
    }

    /// The bytes of utterance `index` in `table`.
    fn value(&self, table: &Table, index: usize) -> Result<&[u8], ShardError> {
        let (start, end) = self.bounds(table, index);
        let byte = |offset: u64| usize::try_from(offset).ok()?.checked_mul(table.width);
        let bytes = byte(start).zip(byte(end)).and_then(|(s, e)| self.map[table.values.clone()].get(s..e));
        bytes.ok_or_else(|| self.damaged(index, "its offsets lie outside the shard"))
    }

    fn crc(&self, index: usize) -> u32 {
        u32_at(&self.map[self.crc32.clone()], index)
    }

    fn damaged(&self, index: usize, reason: &str) -> ShardError {
        ShardError::Utterance { path: self.path().into(), index, reason: reason.into() }
    }
}

fn u64_at(table: &[u8], i: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&table[8 * i..8 * i + 8]);
    u64::from_le_bytes(bytes)
}

pub(super) fn u32_at(table: &[u8], i: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&table[4 * i..4 * i + 4]);
    u32::from_le_bytes(bytes)
}

/// Little-endian bytes as samples: where they lie, if the machine can read them so.
fn samples(bytes: &[u8]) -> Cow<'_, [i16]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(samples) if cfg!(target_endian = "little") => Cow::Borrowed(samples),
        _ => bytes.chunks_exact(2).map(|x| i16::from_le_bytes([x[0], x[1]])).collect(),
    }
}

/// Finds tensors in a mapped safetensors file.
pub(super) struct Layout<'a> {
    path: &'a Path,
    /// Where the data begin.
    start: usize,
    map_len: usize,
    metadata: &'a Metadata,
}

impl<'a> Layout<'a> {
    /// Of `map`, whose data begin at `start`.
    pub(super) fn new(map: &'a Map, start: usize, metadata: &'a Metadata) -> Self {
        Self { path: map.path(), start, map_len: map.len(), metadata }
    }

    pub(super) fn not_a_shard(&self, reason: impl Into<String>) -> ShardError {
        ShardError::NotAShard { path: self.path.into(), reason: reason.into() }
    }

    /// Our own header, and every tensor with its checksum.
    #[allow(clippy::type_complexity)]
    pub(super) fn header(&self) -> Result<(Header, Vec<(String, Range<usize>, u32)>), ShardError> {
        let json = self.metadata.metadata().as_ref().and_then(|m| m.get(METADATA_KEY));
        let json = json.ok_or_else(|| self.not_a_shard(format!("its metadata has no `{METADATA_KEY}`")))?;
        #[derive(serde::Deserialize)]
        struct Version {
            version: u32,
        }
        let malformed = |e: serde_json::Error| self.not_a_shard(format!("its `{METADATA_KEY}` metadata: {e}"));
        let Version { version } = serde_json::from_str(json).map_err(malformed)?;
        if version != VERSION {
            return Err(ShardError::Version { path: self.path.into(), found: version });
        }
        let header: Header = serde_json::from_str(json).map_err(malformed)?;
        if header.sample_rate != SAMPLE_RATE {
            return Err(self.not_a_shard(format!("its sample rate is {}, not {SAMPLE_RATE}", header.sample_rate)));
        }
        let known = self.metadata.tensors();
        if known.len() != header.crc32.len() {
            return Err(self.not_a_shard("its tensors and its list of checksums differ"));
        }
        let mut tensors = Vec::with_capacity(known.len());
        for (name, &crc) in &header.crc32 {
            tensors.push((name.clone(), self.range(name)?, crc));
        }
        Ok((header, tensors))
    }

    fn range(&self, name: &str) -> Result<Range<usize>, ShardError> {
        let info = self.metadata.info(name).ok_or_else(|| self.not_a_shard(format!("no tensor `{name}`")))?;
        let (start, end) = (self.start + info.data_offsets.0, self.start + info.data_offsets.1);
        // read_metadata has compared the last offset with the file; this keeps slicing safe whatever it did.
        if start > end || end > self.map_len {
            return Err(self.not_a_shard(format!("tensor `{name}` lies outside the file")));
        }
        Ok(start..end)
    }

    /// The bytes of tensor `name`, which is `dtype` of `len` elements (any number if `None`).
    pub(super) fn tensor(&self, name: &str, dtype: Dtype, len: Option<usize>) -> Result<Range<usize>, ShardError> {
        let range = self.range(name)?;
        let info = self.metadata.info(name);
        let fits = info
            .is_some_and(|info| info.dtype == dtype && matches!(info.shape[..], [n] if len.is_none_or(|len| len == n)));
        match fits {
            true => Ok(range),
            false => Err(self.not_a_shard(format!("tensor `{name}` has another dtype or shape than it must"))),
        }
    }

    fn table(&self, name: &str, dtype: Dtype, width: usize, len: usize) -> Result<Table, ShardError> {
        let values = self.tensor(name, dtype, None)?;
        let offsets = self.tensor(&format!("{name}_offsets"), Dtype::U64, len.checked_add(1))?;
        Ok(Table { values, offsets, width })
    }
}
