//! RMSNorm by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, column_sum, empty, row_threads, suffix};

/// Blocks that share the rows when the weight's gradient is summed, a few for each processor of a large GPU.
const BLOCKS: usize = 512;

/// `y`, `rstd` and the sum, if anything is added to `x`.
pub(super) fn forward(
    x: &Tensor,
    added: Option<&Tensor>,
    w: &Tensor,
    rows: usize,
    eps: f32,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let (d, dtype) = (w.elem_count(), x.dtype());
    let (y, rstd) = (empty(x.shape(), dtype, x)?, empty(rows, DType::F32, x)?);
    let sum = added.map(|_| empty(x.shape(), dtype, x)).transpose()?;
    let name = format!("rms_norm_forward_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(x).maybe(added, dtype).tensor(w).tensor(&y);
    let call = call.maybe(sum.as_ref(), dtype).tensor(&rstd).u32(d).f32(eps);
    call.launch([rows, 1, 1], row_threads(OP, d, dtype)?, 0)?;
    Ok((y, rstd, sum))
}

pub(super) fn backward(
    grad: &Tensor,
    carried: Option<&Tensor>,
    x: &Tensor,
    w: &Tensor,
    rstd: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (rows, d, dtype) = (rstd.elem_count(), w.elem_count(), x.dtype());
    let dx = empty(x.shape(), dtype, x)?;
    let blocks = if need_weight { rows.min(BLOCKS) } else { rows };
    let partial = if need_weight { Some(empty((blocks, d), DType::F32, x)?) } else { None };
    let kind = if need_weight { "_weight" } else { "" };
    let name = format!("rms_norm_backward{kind}_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(grad).maybe(carried, dtype).tensor(x).tensor(w).tensor(rstd).tensor(&dx);
    let call = call.maybe(partial.as_ref(), DType::F32).u32(rows).u32(d);
    call.launch([blocks, 1, 1], row_threads(OP, d, dtype)?, 0)?;
    Ok((dx, partial.map(|partial| column_sum(OP, &partial)).transpose()?))
}
