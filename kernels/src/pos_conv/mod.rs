//! HuBERT's positional convolution: grouped, stride 1, "same" length, over packed sequences, channels last: x `[t, d]` to `[t, d]`.
//!
//! As `Conv1d(d, d, k, padding = k / 2, groups)` with the last row dropped when k is even (transformers'
//! `HubertSamePadLayer`): row `t` of a sequence sees rows `t - k/2 .. t - k/2 + k` of it, zeros outside. The weight is held as
//! in files, `[d, d/groups, k]`. The bias gradient is [`crate::linear::backward_bias`].

mod cpu;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result, SeqLens};

const OP: &str = "pos_conv";

/// The sizes of the convolution.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Channels.
    pub d: usize,
    /// Groups.
    pub groups: usize,
    /// Taps.
    pub kernel: usize,
}

impl Sizes {
    fn new(w: &Tensor, d: usize, groups: usize) -> Result<Self> {
        if groups == 0 || !d.is_multiple_of(groups) {
            return Err(Error::Value { op: OP, message: format!("{d} channels do not divide into {groups} groups") });
        }
        let kernel = match *w.dims() {
            [_, _, kernel] if kernel > 0 => kernel,
            _ => {
                let expected = "[d, d/groups, k]".into();
                return Err(Error::Shape { op: OP, what: "w", expected, got: w.shape().clone() });
            }
        };
        Ok(Self { d, groups, kernel })
    }

    /// Channels in a group.
    pub fn width(&self) -> usize {
        self.d / self.groups
    }

    fn check(&self, w: &Tensor) -> Result<()> {
        expect_shape(OP, "w", w, &[self.d, self.width(), self.kernel])
    }
}

/// x `[t, d]`, w `[d, d/groups, k]`, bias `[d]` to `[t, d]` of x's dtype.
///
/// # Errors
/// Shapes that do not fit; groups that do not divide d; a dtype other than f32 or bf16.
pub fn forward(x: &Tensor, w: &Tensor, bias: &Tensor, seq: &SeqLens, groups: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "x", x)?;
    let sizes = Sizes::new(w, d, groups)?;
    sizes.check(w)?;
    expect_shape(OP, "x", x, &[seq.total(), d])?;
    expect_shape(OP, "bias", bias, &[d])?;
    let y = cpu::forward(&read(OP, x)?, &read(OP, w)?, &read(OP, bias)?, seq, sizes);
    write(OP, y, x.shape(), x.dtype())
}

/// The gradient of x: grad `[t, d]`, w `[d, d/groups, k]` to `[t, d]` of grad's dtype.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(grad: &Tensor, w: &Tensor, seq: &SeqLens, groups: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "grad", grad)?;
    let sizes = Sizes::new(w, d, groups)?;
    sizes.check(w)?;
    expect_shape(OP, "grad", grad, &[seq.total(), d])?;
    let dx = cpu::backward_input(&read(OP, grad)?, &read(OP, w)?, seq, sizes);
    write(OP, dx, grad.shape(), grad.dtype())
}

/// The gradient of w: grad and x `[t, d]` to `[d, d/groups, kernel]`, f32.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(grad: &Tensor, x: &Tensor, seq: &SeqLens, groups: usize, kernel: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "x", x)?;
    if kernel == 0 || groups == 0 || !d.is_multiple_of(groups) {
        let message = format!("kernel {kernel} and {groups} groups do not fit {d} channels");
        return Err(Error::Value { op: OP, message });
    }
    let sizes = Sizes { d, groups, kernel };
    expect_shape(OP, "x", x, &[seq.total(), d])?;
    expect_shape(OP, "grad", grad, &[seq.total(), d])?;
    let dw = cpu::backward_weight(&read(OP, grad)?, &read(OP, x)?, seq, sizes);
    write(OP, dw, (d, sizes.width(), kernel), DType::F32)
}
