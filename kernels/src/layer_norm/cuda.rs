//! LayerNorm by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, alike, column_sum, empty, row_blocks, row_threads, width};

/// `y`, the statistics and the sum, if anything is added to `x`.
pub(super) fn forward(
    x: &Tensor,
    added: Option<&Tensor>,
    w: &Tensor,
    b: &Tensor,
    rows: usize,
    eps: f32,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let (d, dtype) = (w.elem_count(), x.dtype());
    let total = added.map(|_| empty(x.shape(), dtype, x)).transpose()?;
    let (y, stats) = (empty(x.shape(), dtype, x)?, empty((rows, 2), DType::F32, x)?);
    let name = format!("layer_norm_forward_{}_{}", width(d, dtype), alike(OP, &[x, w, b])?);
    let call = Call::new(OP, OP, &name).tensor(x).maybe(added, dtype).tensor(w).tensor(b).tensor(&y);
    let call = call.maybe(total.as_ref(), dtype).tensor(&stats).u32(d).f32(eps);
    call.launch([rows, 1, 1], row_threads(OP, d, dtype)?, 0)?;
    Ok((y, stats, total))
}

pub(super) fn backward(
    grad: &Tensor,
    carried: Option<&Tensor>,
    x: &Tensor,
    w: &Tensor,
    stats: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (rows, d, dtype) = (stats.elem_count() / 2, w.elem_count(), x.dtype());
    let dx = empty(x.shape(), dtype, x)?;
    let threads = row_threads(OP, d, dtype)?;
    let blocks = if need_weight { row_blocks(rows, threads) } else { rows };
    let partial = if need_weight { Some(empty((blocks, 2 * d), DType::F32, x)?) } else { None };
    let name = format!("layer_norm_backward_{}_{}", width(d, dtype), alike(OP, &[grad, x, w])?);
    let call =
        Call::new(OP, OP, &name).tensor(grad).maybe(carried, dtype).tensor(x).tensor(w).tensor(stats).tensor(&dx);
    let call = call.maybe(partial.as_ref(), DType::F32).u32(rows).u32(d);
    call.launch([blocks, 1, 1], threads, 0)?;
    let Some(partial) = partial else { return Ok((dx, None)) };
    let sums = column_sum(OP, &partial)?;
    Ok((dx, Some((sums.narrow(0, 0, d)?, sums.narrow(0, d, d)?))))
}
