//! Writing one file of a cache.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::tensor::Dtype;

use super::{CacheError, METADATA_KEY, VERSION, part_path};
use crate::files::{Bytes, write_safetensors, write_whole};

/// Collects the features of a part's utterances, in the order of their numbers, and writes them as one file.
pub struct PartWriter {
    dtype: DType,
    /// Of a frame.
    width: usize,
    /// Summed layers; 0 without means.
    layers: usize,
    speech: Vec<u8>,
    offsets: Vec<u64>,
    means: Vec<u8>,
    utterances: Vec<u32>,
    crc32: Vec<u32>,
}

impl PartWriter {
    /// For features held as `dtype`, `width` numbers a frame, and the means of `layers` layers (0 without).
    pub fn new(dtype: DType, width: usize, layers: usize) -> Self {
        let (speech, means, utterances, crc32) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { dtype, width, layers, speech, offsets: vec![0], means, utterances, crc32 }
    }

    /// Appends utterance `number`: its `speech` `[t, d]` and `means` `[L, d]`.
    pub fn push(&mut self, number: u32, speech: &Tensor, means: Option<&Tensor>) -> candle_core::Result<()> {
        let speech_bytes = little_endian(speech, self.dtype)?;
        let mean_bytes = means.map_or(Ok(Vec::new()), |means| little_endian(means, self.dtype))?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.update(&speech_bytes);
        hasher.update(&mean_bytes);
        self.crc32.push(hasher.finalize());
        self.speech.extend(speech_bytes);
        self.means.extend(mean_bytes);
        self.offsets.push(self.offsets[self.utterances.len()] + speech.dims2()?.0 as u64);
        self.utterances.push(number);
        Ok(())
    }

    /// Writes part `part` of the cache in `dir`, completely or not at all.
    pub fn finish(self, dir: &Path, part: usize) -> Result<(), CacheError> {
        let path = part_path(dir, part);
        self.write(&path).map_err(|e| CacheError::write(&path, e))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let (count, width) = (self.utterances.len(), self.width);
        let frames = self.offsets[count] as usize;
        let dtype = if self.dtype == DType::BF16 { Dtype::BF16 } else { Dtype::F32 };
        let little = |values: &[u32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (utterances, crc32) = (little(&self.utterances), little(&self.crc32));
        let mut views = vec![
            ("speech", Bytes { dtype, shape: vec![frames, width], data: &self.speech }),
            ("speech_offsets", Bytes { dtype: Dtype::U64, shape: vec![count + 1], data: &offsets }),
            ("utterance", Bytes { dtype: Dtype::U32, shape: vec![count], data: &utterances }),
            ("crc32", Bytes { dtype: Dtype::U32, shape: vec![count], data: &crc32 }),
        ];
        if self.layers > 0 {
            views.push(("means", Bytes { dtype, shape: vec![count, self.layers, width], data: &self.means }));
        }
        let metadata = HashMap::from([(METADATA_KEY.to_string(), VERSION.to_string())]);
        write_whole(path, |file| write_safetensors(file, views, metadata))
    }
}

/// The little-endian bytes of `tensor` as `dtype`.
fn little_endian(tensor: &Tensor, dtype: DType) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.to_dtype(dtype)?.flatten_all()?;
    Ok(match dtype {
        DType::BF16 => flat.to_vec1::<half::bf16>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => flat.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}
