//! The sum of squares by kernels: partial sums of each tensor, then their total.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, empty, suffix};

/// Blocks for a tensor, a few for each processor of a large GPU.
const BLOCKS: usize = 528;
/// Numbers a block reads at a time, at least.
const PIECE: usize = 1024;

pub(super) fn sum_of_squares(flats: &[&Tensor]) -> Result<Option<Tensor>> {
    let Some(like) = flats.first() else { return Ok(None) };
    let blocks = |flat: &Tensor| flat.elem_count().div_ceil(PIECE).clamp(1, BLOCKS);
    let count = flats.iter().map(|flat| blocks(flat)).sum();
    let (partial, total) = (empty(count, DType::F64, like)?, empty(1, DType::F64, like)?);
    let mut first = 0;
    for flat in flats {
        let name = format!("grad_norm_squares_{}", suffix(OP, flat.dtype())?);
        let call = Call::new(OP, OP, &name).tensor(flat).tensor(&partial).u32(first).u64(flat.elem_count() as u64);
        call.launch([blocks(flat), 1, 1], 256, 0)?;
        first += blocks(flat);
    }
    let call = Call::new(OP, OP, "grad_norm_total").tensor(&partial).tensor(&total).u32(count);
    call.launch([1, 1, 1], 256, 0)?;
    Ok(Some(total))
}
