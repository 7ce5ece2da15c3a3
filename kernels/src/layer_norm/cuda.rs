//! LayerNorm by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::cuda::{Call, alike, column_sum, empty, row_blocks, row_threads, width};
use crate::{Error, Result};

/// What comes with a norm in the same pass.
#[derive(Clone, Copy)]
pub(super) enum With<'a> {
    Nothing,
    /// Something added to the rows in forward, to their gradient in backward.
    Added(Option<&'a Tensor>),
    /// `gelu` behind it.
    Gelu,
}

impl<'a> With<'a> {
    fn added(self) -> Option<&'a Tensor> {
        if let Self::Added(added) = self { added } else { None }
    }

    /// How kernels for rows of `d` numbers are named.
    fn name(self, d: usize, dtype: DType) -> Result<String> {
        match (self, width(d, dtype)) {
            (Self::Gelu, "narrow") => Ok("gelu_narrow".into()),
            (Self::Gelu, _) => {
                Err(Error::Value { op: OP, message: format!("rows of {d} numbers are too wide for a gelu behind") })
            }
            (_, width) => Ok(width.into()),
        }
    }
}

/// `y`, the statistics and the sum, if anything is added to `x`.
pub(super) fn forward(
    x: &Tensor,
    with: With,
    w: &Tensor,
    b: &Tensor,
    rows: usize,
    eps: f32,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let (d, dtype) = (w.elem_count(), x.dtype());
    let added = with.added();
    let total = added.map(|_| empty(x.shape(), dtype, x)).transpose()?;
    let (y, stats) = (empty(x.shape(), dtype, x)?, empty((rows, 2), DType::F32, x)?);
    let name = format!("layer_norm_forward_{}_{}", with.name(d, dtype)?, alike(OP, &[x, w, b])?);
    let call = Call::new(OP, OP, &name).tensor(x).maybe(added, dtype).tensor(w).tensor(b).tensor(&y);
    let call = call.maybe(total.as_ref(), dtype).tensor(&stats).u32(d).f32(eps);
    call.launch([rows, 1, 1], row_threads(OP, d, dtype)?, 0)?;
    Ok((y, stats, total))
}

pub(super) fn backward(
    grad: &Tensor,
    with: With,
    x: &Tensor,
    [w, b]: [&Tensor; 2],
    stats: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (rows, d, dtype) = (stats.elem_count() / 2, w.elem_count(), x.dtype());
    let dx = empty(x.shape(), dtype, x)?;
    let threads = row_threads(OP, d, dtype)?;
    let blocks = if need_weight { row_blocks(rows, threads) } else { rows };
    let partial = if need_weight { Some(empty((blocks, 2 * d), DType::F32, x)?) } else { None };
    let name = format!("layer_norm_backward_{}_{}", with.name(d, dtype)?, alike(OP, &[grad, x, w, b])?);
    let call = Call::new(OP, OP, &name)
        .tensor(grad)
        .maybe(with.added(), dtype)
        .tensor(x)
        .tensor(w)
        .tensor(b)
        .tensor(stats)
        .tensor(&dx);
    let call = call.maybe(partial.as_ref(), DType::F32).u32(rows).u32(d);
    call.launch([blocks, 1, 1], threads, 0)?;
    let Some(partial) = partial else { return Ok((dx, None)) };
    let sums = column_sum(OP, &partial)?;
    Ok((dx, Some((sums.narrow(0, 0, d)?, sums.narrow(0, d, d)?))))
}
