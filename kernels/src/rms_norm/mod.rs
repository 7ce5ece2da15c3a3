//! RMSNorm: `y = x · rstd · w`, `rstd = 1/√(mean(x²) + eps)` over the last dimension (Zhang and Sennrich 2019).

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::Result;
use crate::tensor::{as_rows, expect_shape, read, write};

const OP: &str = "rms_norm";

/// `x [t, d]` (or any leading shape) and `w [d]` to `y` like `x` and `rstd [t]` (f32), which [`backward`] needs.
///
/// Errors: `w` not as wide as `x`.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "w", w, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::forward(x, w, rows, eps as f32);
    }
    let (y, rstd) = cpu::forward(&read(OP, x)?, &read(OP, w)?, rows, eps as f32);
    Ok((write(OP, y, x.shape(), x.dtype())?, write(OP, rstd, rows, DType::F32)?))
}

/// The gradient for `x` (dtype of `grad`) and, if `need_weight`, for `w` (`[d]`, f32).
pub fn backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    rstd: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "grad", grad, x.dims())?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "rstd", rstd, &[rows])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, x, w, rstd, need_weight);
    }
    let (dx, dw) = cpu::backward(&read(OP, grad)?, &read(OP, x)?, &read(OP, w)?, &read(OP, rstd)?, need_weight);
    let dw = if need_weight { Some(write(OP, dw, d, DType::F32)?) } else { None };
    Ok((write(OP, dx, x.shape(), grad.dtype())?, dw))
}
