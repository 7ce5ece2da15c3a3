//! Checksums by kernels: a launch for each tensor, one read of all sums.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, FLAT_THREADS, suffix, zeros};

/// Blocks for a tensor, a few for each processor of a large GPU.
const BLOCKS: usize = 1056;
/// Elements a block reads at a time, at least.
const PIECE: usize = 1024;

pub(super) fn sums(tensors: &[&Tensor]) -> Result<Vec<u64>> {
    let Some(like) = tensors.first() else { return Ok(Vec::new()) };
    let sums = zeros(tensors.len(), DType::I64, like)?;
    for (i, t) in tensors.iter().enumerate() {
        let name = format!("checksum_{}", suffix(OP, t.dtype())?);
        let n = t.elem_count();
        let call = Call::new(OP, OP, &name).tensor(t).of(&sums, DType::I64).u32(i).u64(n as u64);
        call.launch([n.div_ceil(PIECE).min(BLOCKS), 1, 1], FLAT_THREADS, 0)?;
    }
    Ok(sums.to_vec1::<i64>()?.into_iter().map(|sum| sum as u64).collect())
}
