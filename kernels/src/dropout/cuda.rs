//! Dropout by kernels.

use candle_core::Tensor;

use super::OP;
use crate::cuda::{Call, alike, empty, tiles, upload};
use crate::{Result, SeqLens, rng};

/// `residual` plus the masked and scaled `x`.
pub(super) fn apply(residual: Option<&Tensor>, x: &Tensor, p: f32, seq: &SeqLens, streams: &[u64]) -> Result<Tensor> {
    let ((rows, d), dtype) = (x.dims2()?, x.dtype());
    let y = empty(x.shape(), dtype, x)?;
    if y.elem_count() == 0 {
        return Ok(y);
    }
    let keys: Vec<i64> = streams.iter().map(|stream| stream.cast_signed()).collect();
    let (keys, offsets) = (upload(&keys, x)?, seq.device(x)?);
    let name = format!("dropout_{}", alike(OP, &[residual.unwrap_or(x), x])?);
    let call = Call::new(OP, OP, &name).maybe(residual, dtype).tensor(x).tensor(&y).tensor(&offsets).tensor(&keys);
    let call = call.u32(seq.count()).u32(rows).u32(d).u32(rng::threshold(p) as usize).f32(1.0 / (1.0 - p));
    let (grid, threads) = tiles(rows, d, dtype);
    call.launch(grid, threads, 0)?;
    Ok(y)
}
