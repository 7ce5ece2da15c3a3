//! LayerNorm: `y = (x - mean) · rstd · w + b`, `rstd = 1/√(var + eps)` with the biased variance, over the last dimension
//! (Ba, Kiros and Hinton 2016; `torch.nn.LayerNorm`).

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::Result;
use crate::tensor::{as_rows, expect_shape, read, write};

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
        return cuda::forward(x, w, b, rows, eps as f32);
    }
    let (y, stats) = cpu::forward(&read(OP, x)?, &read(OP, w)?, &read(OP, b)?, rows, eps as f32);
    Ok((write(OP, y, x.shape(), x.dtype())?, write(OP, stats, (rows, 2), DType::F32)?))
}

/// The gradient for `x` (dtype of `grad`) and, if `need_weight`, for `w` and `b` (`[d]`, f32).
pub fn backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    stats: &Tensor,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (rows, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "grad", grad, x.dims())?;
    expect_shape(OP, "w", w, &[d])?;
    expect_shape(OP, "stats", stats, &[rows, 2])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, x, w, stats, need_weight);
    }
    let (dx, mut dw) = cpu::backward(&read(OP, grad)?, &read(OP, x)?, &read(OP, w)?, &read(OP, stats)?, need_weight);
    let weights = if need_weight {
        let db = dw.split_off(d);
        Some((write(OP, dw, d, DType::F32)?, write(OP, db, d, DType::F32)?))
    } else {
        None
    };
    Ok((write(OP, dx, x.shape(), grad.dtype())?, weights))
}
