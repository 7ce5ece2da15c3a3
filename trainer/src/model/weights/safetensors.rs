//! One safetensors file, mapped.

use std::path::Path;

use candle_core::DType;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::error::first_line;
use crate::data::shard::{Map, ShardError};

/// A file whose tensors are read where they lie. One that is truncated meanwhile ends the process with a line (`data/shard/map.rs`).
pub(super) struct Safetensors {
    map: Map,
    /// Where the data begin.
    start: usize,
    metadata: Metadata,
}

impl Safetensors {
    /// Opens `path`; the error says what is wrong with it.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let reason = |error| match error {
            ShardError::Unreadable { source, .. } => first_line(source),
            ShardError::Truncated { reason, .. } => format!("not a whole safetensors file: {reason}"),
            other => first_line(other),
        };
        let map = Map::open(path).map_err(reason)?;
        let (start, metadata) = map.header().map_err(reason)?;
        Ok(Self { map, start, metadata })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.metadata.info(name).map(|info| info.shape.clone())
    }

    /// What tensor `name` is stored as, and its bytes; the error says why it cannot be read.
    pub(super) fn stored(&self, name: &str) -> Result<(DType, &[u8]), String> {
        let TensorInfo { dtype, data_offsets: (first, end), .. } = self.metadata.info(name).ok_or("not in the file")?;
        let dtype = match dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            dtype => return Err(format!("weights of {dtype:?} are not read; convert it to F32, F16 or BF16")),
        };
        // The header was compared with the file's length when it was read.
        Ok((dtype, &self.map[self.start + first..self.start + end]))
    }
}
