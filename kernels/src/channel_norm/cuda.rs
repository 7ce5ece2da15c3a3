//! Channel norm by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::cuda::{Call, alike, column_sum, empty};
use crate::{Result, SeqLens};

const THREADS: usize = 256;

pub(super) fn forward(x: &Tensor, w: &Tensor, b: &Tensor, seq: &SeqLens, eps: f64) -> Result<(Tensor, Tensor)> {
    let (n, c, offsets) = (seq.count(), w.elem_count(), seq.device(x)?);
    let (y, stats) = (empty(x.shape(), x.dtype(), x)?, empty((n, 2, c), DType::F32, x)?);
    let name = format!("channel_norm_forward_{}", alike(OP, &[x, w, b])?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(w).tensor(b).tensor(&offsets).tensor(&y).tensor(&stats);
    call.u32(c).f32(eps as f32).launch([n, c.div_ceil(32), 1], THREADS, 0)?;
    Ok((y, stats))
}

pub(super) fn backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    stats: &Tensor,
    seq: &SeqLens,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (n, c, offsets) = (seq.count(), w.elem_count(), seq.device(x)?);
    let (dx, partial) = (empty(x.shape(), x.dtype(), x)?, empty((n, 2 * c), DType::F32, x)?);
    let name = format!("channel_norm_backward_{}", alike(OP, &[grad, x, w])?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(x).tensor(w).tensor(stats).tensor(&offsets);
    call.tensor(&dx).tensor(&partial).u32(c).launch([n, c.div_ceil(32), 1], THREADS, 0)?;
    if !need_weight {
        return Ok((dx, None));
    }
    let sums = column_sum(OP, &partial)?;
    Ok((dx, Some((sums.narrow(0, 0, c)?, sums.narrow(0, c, c)?))))
}
