//! RMSNorm: `y = x · rstd · w`, `rstd = 1/√(mean(x²) + eps)` over the last dimension (Zhang and Sennrich 2019).

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{as_rows, expect_shape, read, write};
use crate::{Result, elementwise};

const OP: &str = "rms_norm";

/// `x [t, d]` (or any leading shape) and `w [d]` to `y` like `x` and `rstd [t]` (f32), which [`backward`] needs.
///
/// Errors: `w` not as wide as `x`.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "w", w, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        let (y, rstd, _) = cuda::forward(x, None, w, rows, eps as f32)?;
        return Ok((y, rstd));
    }
    let (y, rstd) = cpu::forward(&read(OP, x)?, &read(OP, w)?, rows, eps as f32);
    Ok((write(OP, y, x.shape(), x.dtype())?, write(OP, rstd, rows, DType::F32)?))
}

/// `sum = x + added`, in x's dtype, and what [`forward`] makes of it: `(sum, y, rstd)`. On a GPU in one pass.
///
/// Errors: as [`forward`]'s; `added` of another shape than `x`.
pub fn forward_added(x: &Tensor, added: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor, Tensor)> {
    let (_rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "added", added, x.dims())?;
    expect_shape(OP, "w", w, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        let (y, rstd, sum) = cuda::forward(x, Some(added), w, _rows, eps as f32)?;
        return Ok((sum.unwrap_or_else(|| x.clone()), y, rstd));
    }
    let sum = elementwise::add(x, added)?;
    let (y, rstd) = forward(&sum, w, eps)?;
    Ok((sum, y, rstd))
}

/// The gradient for `x` (dtype of `grad`) and, if `need_weight`, for `w` (`[d]`, f32).
pub fn backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    rstd: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    backward_added(grad, None, x, w, rstd, need_weight)
}

/// [`backward`] of [`forward_added`], with `x` its sum: the gradient for both that were added, which has `carried`, the sum's own, in it.
pub fn backward_added(
    grad: &Tensor,
    carried: Option<&Tensor>,
    x: &Tensor,
    w: &Tensor,
    rstd: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "grad", grad, x.dims())?;
    carried.map_or(Ok(()), |carried| expect_shape(OP, "carried", carried, x.dims()))?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "rstd", rstd, &[rows])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, carried, x, w, rstd, need_weight);
    }
    let (mut dx, dw) = cpu::backward(&read(OP, grad)?, &read(OP, x)?, &read(OP, w)?, &read(OP, rstd)?, need_weight);
    if let Some(carried) = carried {
        dx = elementwise::sum(&dx, &read(OP, carried)?);
    }
    let dw = if need_weight { Some(write(OP, dw, d, DType::F32)?) } else { None };
    Ok((write(OP, dx, x.shape(), grad.dtype())?, dw))
}
