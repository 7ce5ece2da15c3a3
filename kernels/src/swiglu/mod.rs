//! SwiGLU: `silu(gate) · up` (Shazeer 2020), the middle of the LLaMA family's feed-forward.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::Result;
use crate::tensor::{expect_shape, read, write};

const OP: &str = "swiglu";

/// `silu(gate) · up` of two tensors of one shape, in the dtype of `gate`.
///
/// Errors: the shapes differ.
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    expect_shape(OP, "up", up, gate.dims())?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(gate) {
        return cuda::forward(gate, up);
    }
    write(OP, cpu::forward(&read(OP, gate)?, &read(OP, up)?), gate.shape(), gate.dtype())
}

/// The gradients for `gate` and `up`, in the dtype of `grad`.
pub fn backward(grad: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    expect_shape(OP, "up", up, gate.dims())?;
    expect_shape(OP, "grad", grad, gate.dims())?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(gate) {
        return cuda::backward(grad, gate, up);
    }
    let (dgate, dup) = cpu::backward(&read(OP, grad)?, &read(OP, gate)?, &read(OP, up)?);
    Ok((write(OP, dgate, gate.shape(), grad.dtype())?, write(OP, dup, gate.shape(), grad.dtype())?))
}
