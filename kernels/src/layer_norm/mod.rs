//! LayerNorm: `y = (x - mean) · rstd · w + b`, `rstd = 1/√(var + eps)` with the biased variance, over the last dimension
//! (Ba, Kiros and Hinton 2016; `torch.nn.LayerNorm`).

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};
#[cfg(any(feature = "cuda", feature = "emulate"))]
use cuda::With;

use crate::activation::{self, Activation};
use crate::tensor::{as_rows, expect_shape, read, write};
use crate::{Result, elementwise};

const OP: &str = "layer_norm";

/// `x [t, d]` (or any leading shape), `w [d]` and `b [d]` to `y` like `x` and the statistics `[t, 2]` (mean, rstd; f32)
/// that [`backward`] needs.
///
/// Errors: `w` or `b` not as wide as `x`.
pub fn forward(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "b", b, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        let (y, stats, _) = cuda::forward(x, With::Nothing, w, b, rows, eps as f32)?;
        return Ok((y, stats));
    }
    let (y, stats) = cpu::forward(&read(OP, x)?, &read(OP, w)?, &read(OP, b)?, rows, eps as f32);
    Ok((write(OP, y, x.shape(), x.dtype())?, write(OP, stats, (rows, 2), DType::F32)?))
}

/// `sum = x + added`, in x's dtype, and what [`forward`] makes of it: `(sum, y, stats)`. On a GPU in one pass.
///
/// Errors: as [`forward`]'s; `added` of another shape than `x`.
pub fn forward_added(x: &Tensor, added: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<(Tensor, Tensor, Tensor)> {
    let (_rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "added", added, x.dims())?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "b", b, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        let (y, stats, sum) = cuda::forward(x, With::Added(Some(added)), w, b, _rows, eps as f32)?;
        return Ok((sum.unwrap_or_else(|| x.clone()), y, stats));
    }
    let sum = elementwise::add(x, added)?;
    let (y, stats) = forward(&sum, w, b, eps)?;
    Ok((sum, y, stats))
}

/// The gelu of what [`forward`] makes, and the statistics. On a GPU in one pass.
///
/// Errors: as [`forward`]'s.
pub fn forward_gelu(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (_rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "b", b, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        let (y, stats, _) = cuda::forward(x, With::Gelu, w, b, _rows, eps as f32)?;
        return Ok((y, stats));
    }
    let (y, stats) = forward(x, w, b, eps)?;
    Ok((activation::forward(&y, None, Activation::Gelu)?, stats))
}

/// [`backward`] of [`forward_gelu`]: what the norm made is made again.
///
/// Errors: as [`backward`]'s; `b` not as wide as `x`.
pub fn backward_gelu(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    stats: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "grad", grad, x.dims())?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "b", b, &[d])?;
    expect_shape(OP, "stats", stats, &[rows, 2])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, With::Gelu, x, [w, b], stats, need_weight);
    }
    let z = cpu::again(&read(OP, x)?, &read(OP, w)?, &read(OP, b)?, &read(OP, stats)?);
    let z = write(OP, z, x.shape(), x.dtype())?;
    backward(&activation::backward(grad, &z, None, Activation::Gelu)?, x, w, stats, need_weight)
}

/// The gradient for `x` (dtype of `grad`) and, if `need_weight`, for `w` and `b` (`[d]`, f32).
pub fn backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    stats: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    backward_added(grad, None, x, w, stats, need_weight)
}

/// [`backward`] of [`forward_added`], with `x` its sum: the gradient for both that were added, which has `carried`, the sum's own, in it.
pub fn backward_added(
    grad: &Tensor,
    carried: Option<&Tensor>,
    x: &Tensor,
    w: &Tensor,
    stats: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "grad", grad, x.dims())?;
    carried.map_or(Ok(()), |carried| expect_shape(OP, "carried", carried, x.dims()))?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "stats", stats, &[rows, 2])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, With::Added(carried), x, [w, w], stats, need_weight);
    }
    let (mut dx, mut dw) =
        cpu::backward(&read(OP, grad)?, &read(OP, x)?, &read(OP, w)?, &read(OP, stats)?, need_weight);
    if let Some(carried) = carried {
        dx = elementwise::sum(&dx, &read(OP, carried)?);
    }
    let weights = if need_weight {
        let db = dw.split_off(d);
        Some((write(OP, dw, d, DType::F32)?, write(OP, db, d, DType::F32)?))
    } else {
        None
    };
    Ok((write(OP, dx, x.shape(), grad.dtype())?, weights))
}
