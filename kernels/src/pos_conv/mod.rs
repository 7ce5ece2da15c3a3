//! HuBERT's positional convolution: grouped, along time, stride 1, as many rows out as in (`HubertPositionalConvEmbedding`
//! of Hugging Face transformers).
//!
//! x `[t, d]`, w `[d, d / groups, kernel]`, bias `[d]` to y `[t, d]`. Within each sequence
//! `y[t, o] = bias[o] + sum over i, j of x[t + j - kernel / 2, i] w[o, i, j]`, i over the channels of o's group and rows
//! outside the sequence 0: padding of `kernel / 2` on both sides, and for an even kernel the last row dropped. A sequence's
//! result does not depend, bitwise, on its neighbours. The bias gradient is [`crate::linear::backward_bias`].

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result, SeqLens};

const OP: &str = "pos_conv";

/// The sizes of a positional convolution.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Channels in and out.
    pub d: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Rows in a window.
    pub kernel: usize,
}

impl Sizes {
    fn new(d: usize, groups: usize, kernel: usize) -> Result<Self> {
        if groups == 0 || !d.is_multiple_of(groups) {
            return Err(Error::Value { op: OP, message: format!("{groups} groups do not divide {d} channels") });
        }
        if kernel == 0 {
            return Err(Error::Value { op: OP, message: "the kernel must be at least 1".into() });
        }
        Ok(Self { d, groups, kernel })
    }

    /// Channels of a group.
    pub fn width(&self) -> usize {
        self.d / self.groups
    }

    fn weight(d: usize, w: &Tensor, groups: usize) -> Result<Self> {
        let kernel = w.dims().get(2).copied().unwrap_or(1);
        let sizes = Self::new(d, groups, kernel)?;
        expect_shape(OP, "w", w, &[d, sizes.width(), kernel])?;
        Ok(sizes)
    }
}

/// x `[t, d]`, w `[d, d / groups, kernel]`, bias `[d]` to `[t, d]` of x's dtype.
///
/// # Errors
/// Shapes that do not fit; groups that do not divide d; a dtype other than f32 or bf16.
pub fn forward(x: &Tensor, w: &Tensor, bias: &Tensor, seq: &SeqLens, groups: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "x", x)?;
    let sizes = Sizes::weight(d, w, groups)?;
    expect_shape(OP, "x", x, &[seq.total(), d])?;
    expect_shape(OP, "bias", bias, &[d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::forward(x, w, bias, seq, sizes);
    }
    let y = cpu::forward(&read(OP, x)?, &read(OP, w)?, &read(OP, bias)?, seq, sizes);
    write(OP, y, (seq.total(), d), x.dtype())
}

/// The gradient of x: grad `[t, d]`, w `[d, d / groups, kernel]` to `[t, d]` of grad's dtype.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(grad: &Tensor, w: &Tensor, seq: &SeqLens, groups: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "grad", grad)?;
    let sizes = Sizes::weight(d, w, groups)?;
    expect_shape(OP, "grad", grad, &[seq.total(), d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward_input(grad, w, seq, sizes);
    }
    let dx = cpu::backward_input(&read(OP, grad)?, &read(OP, w)?, seq, sizes);
    write(OP, dx, (seq.total(), d), grad.dtype())
}

/// The gradient of w: grad and x `[t, d]` to `[d, d / groups, kernel]`, f32.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(grad: &Tensor, x: &Tensor, seq: &SeqLens, groups: usize, kernel: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "grad", grad)?;
    let sizes = Sizes::new(d, groups, kernel)?;
    expect_shape(OP, "grad", grad, &[seq.total(), d])?;
    expect_shape(OP, "x", x, &[seq.total(), d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward_weight(grad, x, seq, sizes);
    }
    let dw = cpu::backward_weight(&read(OP, grad)?, &read(OP, x)?, seq, sizes);
    write(OP, dw, (d, sizes.width(), kernel), DType::F32)
}
