//! Each channel normalised over the time of its utterance: `torch.nn.GroupNorm` with as many groups as channels, as after
//! the first convolution of HuBERT-base (`feat_extract_norm = "group"`), on a packed batch.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Result, SeqLens};

const OP: &str = "channel_norm";

/// `x [t, c]` whose sequences are `seq`, `w [c]` and `b [c]` to `y` like `x` and the statistics `[n, 2, c]` (mean, rstd; f32; zeros
/// for an empty sequence) that [`backward`] needs. The variance is the biased one.
///
/// Errors: `w` or `b` not as wide as `x`; `seq` of another total than `t`.
pub fn forward(x: &Tensor, w: &Tensor, b: &Tensor, seq: &SeqLens, eps: f64) -> Result<(Tensor, Tensor)> {
    let (_, c) = dims2(OP, "x", x)?;
    expect_shape(OP, "x", x, &[seq.total(), c])?;
    expect_shape(OP, "w", w, &[c])?;
    expect_shape(OP, "b", b, &[c])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::forward(x, w, b, seq, eps);
    }
    let (y, stats) = cpu::forward(&read(OP, x)?, &read(OP, w)?, &read(OP, b)?, seq, eps);
    Ok((write(OP, y, x.shape(), x.dtype())?, write(OP, stats, (seq.count(), 2, c), DType::F32)?))
}

/// The gradient for `x` (dtype of `grad`) and, if `need_weight`, for `w` and `b` (`[c]`, f32).
pub fn backward(
    grad: &Tensor,
    x: &Tensor,
    w: &Tensor,
    stats: &Tensor,
    seq: &SeqLens,
    need_weight: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let (_, c) = dims2(OP, "x", x)?;
    expect_shape(OP, "x", x, &[seq.total(), c])?;
    expect_shape(OP, "grad", grad, x.dims())?;
    expect_shape(OP, "w", w, &[c])?;
    expect_shape(OP, "stats", stats, &[seq.count(), 2, c])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, x, w, stats, seq, need_weight);
    }
    let (dx, dw, db) = cpu::backward(&read(OP, grad)?, &read(OP, x)?, &read(OP, w)?, &read(OP, stats)?, seq);
    let weights = if need_weight { Some((write(OP, dw, c, DType::F32)?, write(OP, db, c, DType::F32)?)) } else { None };
    Ok((write(OP, dx, x.shape(), grad.dtype())?, weights))
}
