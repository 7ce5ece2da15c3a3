//! The strided, unpadded convolution of packed sequences, channels last: x `[t, c_in]` to `[t_out, c_out]`.
//!
//! Each sequence of `len` rows becomes `(len - kernel) / stride + 1` rows, none if shorter than the kernel. Weights are
//! `[c_out, kernel * c_in]`, tap-major: window `j` of a sequence is the contiguous run of `kernel * c_in` numbers that
//! starts at its row `j * stride`, so the convolution is a matrix product on an overlapping view of x. A sequence's result
//! does not depend, bitwise, on its neighbours. The bias gradient is [`crate::linear::backward_bias`].

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result, SeqLens};

const OP: &str = "conv1d";

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Channels in.
    pub c_in: usize,
    /// Channels out.
    pub c_out: usize,
    /// Rows in a window.
    pub kernel: usize,
    /// Rows from window to window.
    pub stride: usize,
}

impl Sizes {
    fn new(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Result<Self> {
        if kernel == 0 || stride == 0 {
            let message = format!("kernel {kernel} and stride {stride} must be at least 1");
            return Err(Error::Value { op: OP, message });
        }
        Ok(Self { c_in, c_out, kernel, stride })
    }

    /// The length of a window, in numbers.
    fn window(&self) -> usize {
        self.kernel * self.c_in
    }
}

/// The rows a sequence of `len` rows becomes.
pub fn out_len(len: usize, kernel: usize, stride: usize) -> usize {
    if len < kernel { 0 } else { (len - kernel) / stride + 1 }
}

/// [`out_len`] of every sequence.
pub fn out_seqlens(seq: &SeqLens, kernel: usize, stride: usize) -> SeqLens {
    SeqLens::from_lens(seq.lens().map(|len| out_len(len, kernel, stride)))
}

/// x `[t, c_in]`, w `[c_out, kernel * c_in]`, bias `[c_out]` to `[t_out, c_out]` of x's dtype and its lengths.
///
/// # Errors
/// Shapes that do not fit; a kernel or stride of 0; a dtype other than f32 or bf16.
pub fn forward(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    seq: &SeqLens,
    kernel: usize,
    stride: usize,
) -> Result<(Tensor, SeqLens)> {
    let (_, c_in) = dims2(OP, "x", x)?;
    let (c_out, _) = dims2(OP, "w", w)?;
    let sizes = Sizes::new(c_in, c_out, kernel, stride)?;
    expect_shape(OP, "x", x, &[seq.total(), c_in])?;
    expect_shape(OP, "w", w, &[c_out, sizes.window()])?;
    if let Some(bias) = bias {
        expect_shape(OP, "bias", bias, &[c_out])?;
    }
    let out = out_seqlens(seq, kernel, stride);
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return Ok((cuda::Conv::new(seq, &out, sizes, x)?.forward(x, w, bias)?, out));
    }
    let bias = bias.map(|b| read(OP, b)).transpose()?;
    let y = cpu::forward(&read(OP, x)?, &read(OP, w)?, bias.as_deref(), seq, &out, sizes);
    Ok((write(OP, y, (out.total(), c_out), x.dtype())?, out))
}

/// The gradient of x: grad `[t_out, c_out]`, w `[c_out, kernel * c_in]` to `[t, c_in]` of grad's dtype. `seq` is x's.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(grad: &Tensor, w: &Tensor, seq: &SeqLens, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, c_out) = dims2(OP, "grad", grad)?;
    let (_, window) = dims2(OP, "w", w)?;
    let sizes = Sizes::new(window / kernel.max(1), c_out, kernel, stride)?;
    expect_shape(OP, "w", w, &[c_out, sizes.window()])?;
    let out = out_seqlens(seq, kernel, stride);
    expect_shape(OP, "grad", grad, &[out.total(), c_out])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::Conv::new(seq, &out, sizes, grad)?.backward_input(grad, w);
    }
    let dx = cpu::backward_input(&read(OP, grad)?, &read(OP, w)?, seq, &out, sizes);
    write(OP, dx, (seq.total(), sizes.c_in), grad.dtype())
}

/// The gradient of w: grad `[t_out, c_out]`, x `[t, c_in]` to `[c_out, kernel * c_in]`, f32.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(grad: &Tensor, x: &Tensor, seq: &SeqLens, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, c_out) = dims2(OP, "grad", grad)?;
    let (_, c_in) = dims2(OP, "x", x)?;
    let sizes = Sizes::new(c_in, c_out, kernel, stride)?;
    let out = out_seqlens(seq, kernel, stride);
    expect_shape(OP, "x", x, &[seq.total(), c_in])?;
    expect_shape(OP, "grad", grad, &[out.total(), c_out])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::Conv::new(seq, &out, sizes, grad)?.backward_weight(grad, x);
    }
    let dw = cpu::backward_weight(&read(OP, grad)?, &read(OP, x)?, seq, &out, sizes);
    write(OP, dw, (c_out, sizes.window()), DType::F32)
}
