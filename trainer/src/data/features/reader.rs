//! Reading a cache through memory maps.

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::DType;
use echat_kernels::SeqLens;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata};

use super::{CacheError, Identity, METADATA_KEY, Packed, PartPlan, VERSION, part_path, tensor};
use crate::data::shard::Map;

/// No part has it.
const NOWHERE: (u32, u32) = (u32::MAX, 0);

/// An opened cache.
pub struct FeatureCache {
    parts: Vec<Option<Part>>,
    /// By an utterance's number in the corpus: which part has it, and where.
    places: Vec<(u32, u32)>,
    /// In what the features are held, and in what they are wanted.
    dtype: DType,
    compute: DType,
}

/// An opened file.
struct Part {
    path: PathBuf,
    map: Map,
    dtype: DType,
    width: usize,
    /// 0 without means.
    layers: usize,
    offsets: Vec<u64>,
    speech: Range<usize>,
    means: Option<Range<usize>>,
    crc32: Vec<u32>,
}

impl FeatureCache {
    /// Opens the files `plans` of the cache in `dir` that lie on node `here`, all of which must be there. `utterances` is the length of the
    /// corpus; features are handed out as `compute`.
    pub fn open(
        dir: &Path,
        identity: &Identity,
        plans: &[PartPlan],
        here: usize,
        utterances: usize,
        compute: DType,
    ) -> Result<Self, CacheError> {
        let opened: Vec<_> = plans
            .par_iter()
            .enumerate()
            .map(|(i, plan)| (plan.node == here).then(|| Part::open(&part_path(dir, i), identity, plan)).transpose())
            .collect::<Result<_, CacheError>>()?;
        let (mut places, mut parts) = (vec![NOWHERE; utterances], Vec::new());
        for (i, opened) in opened.into_iter().enumerate() {
            let (part, numbers) = opened.map_or((None, Vec::new()), |(part, numbers)| (Some(part), numbers));
            for (row, &number) in numbers.iter().enumerate() {
                if let Some(place) = places.get_mut(number as usize) {
                    *place = (i as u32, row as u32);
                }
            }
            parts.push(part);
        }
        Ok(Self { parts, places, dtype: identity.dtype(), compute })
    }

    /// Whether utterance `number` is there; one whose recording could not be read is not.
    pub fn has(&self, number: u32) -> bool {
        self.places.get(number as usize).is_some_and(|place| *place != NOWHERE)
    }

    /// Has the system read what is needed of utterance `number` soon.
    pub fn will_need(&self, number: u32) {
        if let Some((part, row)) = self.find(number) {
            part.map.will_need(part.speech_bytes(row));
        }
    }

    fn find(&self, number: u32) -> Option<(&Part, usize)> {
        let &(part, row) = self.places.get(number as usize)?;
        Some((self.parts.get(part as usize)?.as_ref()?, row as usize))
    }

    /// The features of `numbers`, packed in this order, each compared with its checksum. Those that are not there are left out.
    pub fn pack(&self, numbers: &[u32]) -> Result<Packed, CacheError> {
        let (mut speech, mut lens, mut by_utterance) = (Vec::new(), Vec::new(), Vec::new());
        let (mut width, mut layers) = (0, 0);
        for &number in numbers {
            let Some((part, row)) = self.find(number) else { continue };
            let (bytes, means) = part.get(row, number)?;
            (width, layers) = (part.width, part.layers);
            lens.push(bytes.len() / (width * self.dtype.size_in_bytes()).max(1));
            speech.extend_from_slice(bytes);
            by_utterance.push(means);
        }
        let count = lens.len();
        // From an utterance's layers to a layer's utterances.
        let row = width * self.dtype.size_in_bytes();
        let mut means = Vec::with_capacity(layers * count * row);
        for l in 0..layers {
            by_utterance.iter().for_each(|of_one| means.extend_from_slice(&of_one[l * row..(l + 1) * row]));
        }
        let packed = || -> candle_core::Result<Packed> {
            let frames = lens.iter().sum();
            let of = |bytes, shape: &[usize]| tensor(bytes, shape, self.dtype)?.to_dtype(self.compute);
            let means = if layers > 0 { Some(of(&means, &[layers, count, width])?) } else { None };
            Ok(Packed { speech: of(&speech, &[frames, width])?, lens: SeqLens::from_lens(lens), means })
        };
        packed().map_err(|e| CacheError::Damaged { path: PathBuf::from("features"), reason: e.to_string() })
    }

    /// Utterances there are.
    pub fn len(&self) -> usize {
        self.parts.iter().flatten().map(|part| part.crc32.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the files.
    pub fn bytes(&self) -> usize {
        self.parts.iter().flatten().map(|part| part.map.len()).sum()
    }
}

impl Part {
    /// Opens a file and checks that it holds what `plan` says; also the numbers of its utterances.
    fn open(path: &Path, identity: &Identity, plan: &PartPlan) -> Result<(Self, Vec<u32>), CacheError> {
        let damaged = |reason: &str| CacheError::Damaged { path: path.into(), reason: reason.into() };
        let map = Map::open(path)?;
        let (start, metadata) = map.header().map_err(|e| damaged(&e.to_string()))?;
        let version = metadata.metadata().as_ref().and_then(|m| m.get(METADATA_KEY));
        if version != Some(&VERSION.to_string()) {
            return Err(damaged("not a file of features of this version"));
        }
        let dtype = identity.dtype();
        let wanted = if dtype == DType::BF16 { Dtype::BF16 } else { Dtype::F32 };
        let find = |name: &str| locate(&metadata, start, map.len(), name).ok_or_else(|| damaged("a tensor is missing"));
        let (speech, kind, shape) = find("speech")?;
        let &[frames, width] = shape else { return Err(damaged("`speech` has another shape than it must")) };
        let (utterances, ..) = find("utterance")?;
        let numbers = u32s(&map[utterances]);
        let (offsets, ..) = find("speech_offsets")?;
        let offsets: Vec<u64> = map[offsets].chunks_exact(8).map(|b| u64::from_le_bytes(array(b))).collect();
        let (crc32, ..) = find("crc32")?;
        let crc32 = u32s(&map[crc32]);
        let (mut means, mut layers) = (None, 0);
        if identity.means {
            let (range, kind, shape) = find("means")?;
            let &[count, found, wide] = shape else { return Err(damaged("`means` has another shape than it must")) };
            if count != numbers.len() || wide != width || kind != wanted {
                return Err(damaged("`means` has another shape or dtype than it must"));
            }
            (means, layers) = (Some(range), found);
        }
        let in_order = offsets.first() == Some(&0) && offsets.is_sorted() && offsets.last() == Some(&(frames as u64));
        if !in_order || kind != wanted || offsets.len() != numbers.len() + 1 || crc32.len() != numbers.len() {
            return Err(damaged("its tensors do not fit together"));
        }
        // Every utterance is one of the plan's; those that could not be read are missing.
        let mut planned = plan.utterances.iter();
        if !numbers.iter().all(|number| planned.any(|planned| planned == number)) {
            return Err(damaged("it holds other utterances than it must"));
        }
        Ok((Self { path: path.into(), dtype, width, layers, offsets, speech, means, crc32, map }, numbers))
    }

    fn speech_bytes(&self, row: usize) -> Range<usize> {
        let byte = |frame: u64| self.speech.start + frame as usize * self.width * self.dtype.size_in_bytes();
        byte(self.offsets[row])..byte(self.offsets[row + 1])
    }

    /// The bytes of the utterance in row `row`: its speech and its means.
    fn get(&self, row: usize, number: u32) -> Result<(&[u8], &[u8]), CacheError> {
        let speech = &self.map[self.speech_bytes(row)];
        let size = self.layers * self.width * self.dtype.size_in_bytes();
        let means = self.means.as_ref().map_or(&[][..], |means| &self.map[means.clone()][row * size..(row + 1) * size]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.update(speech);
        hasher.update(means);
        match hasher.finalize() == self.crc32[row] {
            true => Ok((speech, means)),
            false => {
                let reason = format!("row {row} does not match its checksum");
                Err(CacheError::Damaged { path: self.path.clone(), reason })
            }
        }
    }
}

/// Bytes, dtype and shape of a tensor that lies within the file.
fn locate<'m>(
    metadata: &'m Metadata,
    start: usize,
    len: usize,
    name: &str,
) -> Option<(Range<usize>, Dtype, &'m [usize])> {
    let info = metadata.info(name)?;
    let range = start + info.data_offsets.0..start + info.data_offsets.1;
    (range.start <= range.end && range.end <= len).then_some((range, info.dtype, &info.shape))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(array(b))).collect()
}
