//! Element-wise activations with the bias of the layer before them, and the column sum that is a bias's gradient.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::Result;
use crate::tensor::{Read, as_rows, expect_shape, read, write};

const OP: &str = "activation";

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z · Φ(z)`, the exact (erf) GELU.
    Gelu,
    /// `z/2 · (1 + tanh(√(2/π)(z + 0.044715 z³)))`.
    GeluTanh,
    /// `max(z, 0)`; its derivative at 0 is 0.
    Relu,
    /// `z / (1 + e^-z)`.
    Silu,
}

/// `f(x + bias)` of `x [t, d]` (or any leading shape) and `bias [d]`.
///
/// Errors: `bias` not as wide as `x`.
pub fn forward(x: &Tensor, bias: Option<&Tensor>, kind: Activation) -> Result<Tensor> {
    let (_, d) = as_rows(OP, "x", x)?;
    expect_bias(bias, d)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::forward(x, bias, kind);
    }
    let bias = read_bias(bias)?;
    let y = cpu::forward(&read(OP, x)?, bias.as_deref(), d, kind);
    write(OP, y, x.shape(), x.dtype())
}

/// The gradient for `x`, in the dtype of `grad`; the bias's is its [`column_sum`].
pub fn backward(grad: &Tensor, x: &Tensor, bias: Option<&Tensor>, kind: Activation) -> Result<Tensor> {
    let (_, d) = as_rows(OP, "x", x)?;
    expect_shape(OP, "grad", grad, x.dims())?;
    expect_bias(bias, d)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::backward(grad, x, bias, kind);
    }
    let bias = read_bias(bias)?;
    let dx = cpu::backward(&read(OP, grad)?, &read(OP, x)?, bias.as_deref(), d, kind);
    write(OP, dx, x.shape(), grad.dtype())
}

/// The sum of the rows of `x [t, d]` (or any leading shape): `[d]`, f32.
pub fn column_sum(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "column_sum";
    let (_, d) = as_rows(OP, "x", x)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return crate::cuda::column_sum(OP, x);
    }
    write(OP, cpu::column_sum(&read(OP, x)?, d), d, DType::F32)
}

fn expect_bias(bias: Option<&Tensor>, d: usize) -> Result<()> {
    bias.map_or(Ok(()), |bias| expect_shape(OP, "bias", bias, &[d]))
}

fn read_bias(bias: Option<&Tensor>) -> Result<Option<Read<'_>>> {
    bias.map(|bias| read(OP, bias)).transpose()
}
