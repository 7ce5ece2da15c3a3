//! Frame stacking by kernels: of stacked rows taken as `k` rows each, a sequence's rows are copied as they lie, or zeros.

use candle_core::Tensor;

use super::OP;
use crate::cuda::{Call, empty, suffix, tiles};
use crate::{Result, SeqLens};

/// Sequences whose rows count as so many.
type Scaled<'a> = (&'a SeqLens, usize);

pub(super) fn forward(x: &Tensor, seq: &SeqLens, stacked: &SeqLens, k: usize) -> Result<Tensor> {
    let d = x.dims()[1];
    let y = empty((stacked.total(), k * d), x.dtype(), x)?;
    copy(x, &y, (seq, 1), (stacked, k), d)?;
    Ok(y)
}

pub(super) fn backward(grad: &Tensor, seq: &SeqLens, stacked: &SeqLens, d: usize, k: usize) -> Result<Tensor> {
    let dx = empty((seq.total(), d), grad.dtype(), grad)?;
    copy(grad, &dx, (stacked, k), (seq, 1), d)?;
    Ok(dx)
}

fn copy(x: &Tensor, y: &Tensor, from: Scaled, to: Scaled, d: usize) -> Result<()> {
    if y.elem_count() == 0 {
        return Ok(());
    }
    let (rows, dtype) = (to.0.total() * to.1, x.dtype());
    let (from_offsets, to_offsets) = (from.0.device(x)?, to.0.device(x)?);
    let name = format!("stack_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(y).tensor(&from_offsets).tensor(&to_offsets);
    let call = call.u32(to.0.count()).u32(from.1).u32(to.1).u32(rows).u32(d);
    let (grid, threads) = tiles(rows, d, dtype);
    call.launch(grid, threads, 0)
}
