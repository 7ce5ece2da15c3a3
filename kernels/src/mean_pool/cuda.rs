//! Means over sequences by kernels: the sum of each chunk of rows, then of a sequence's chunks.

use candle_core::{DType, Tensor};

use super::OP;
use crate::cuda::{CHUNK_THREADS, Call, chunks, empty, suffix};
use crate::{Result, SeqLens};

pub(super) fn forward(x: &Tensor, seq: &SeqLens) -> Result<Tensor> {
    let ((rows, d), dtype) = (x.dims2()?, x.dtype());
    let (grid, offsets) = (chunks(rows, seq.count(), d, dtype), seq.device(x)?);
    let partial = empty((grid[0], d), DType::F32, x)?;
    let name = format!("mean_pool_partial_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(&offsets).tensor(&partial);
    call.u32(seq.count()).u32(rows).u32(d).launch(if seq.count() == 0 { [0; 3] } else { grid }, CHUNK_THREADS, 0)?;
    Ok(finish(OP, &partial, 1, seq, dtype)?.squeeze(0)?)
}

/// The means [layers, n, d] stored as `dtype`, from the sums of the chunks, `partial` [layers * chunks, d].
pub(crate) fn finish(op: &'static str, partial: &Tensor, layers: usize, seq: &SeqLens, dtype: DType) -> Result<Tensor> {
    let (rows, d) = partial.dims2()?;
    let (n, offsets) = (seq.count(), seq.device(partial)?);
    let means = empty((layers, n, d), dtype, partial)?;
    let name = format!("mean_pool_finish_{}", suffix(op, dtype)?);
    let call = Call::new(op, OP, &name).tensor(partial).tensor(&offsets).tensor(&means);
    call.u32(n).u32(rows / layers).u32(d).launch([n, d.div_ceil(128), layers], 128, 0)?;
    Ok(means)
}

pub(super) fn backward(grad: &Tensor, seq: &SeqLens) -> Result<Tensor> {
    let ((n, d), dtype, rows) = (grad.dims2()?, grad.dtype(), seq.total());
    let (dx, offsets) = (empty((rows, d), dtype, grad)?, seq.device(grad)?);
    let name = format!("mean_pool_backward_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(&offsets).tensor(&dx).u32(n).u32(rows).u32(d);
    call.launch(if rows == 0 { [0; 3] } else { chunks(rows, n, d, dtype) }, CHUNK_THREADS, 0)?;
    Ok(dx)
}
