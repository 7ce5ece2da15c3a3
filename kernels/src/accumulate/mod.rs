//! Gradients added up where they lie: `sum += x`, and `sum = 0`.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::Result;
use crate::tensor::{distinct, expect_shape, read, with_mut};

const OP: &str = "accumulate";

/// Sets the elements of `sum`, f32 and contiguous, to zero. Views of the same storage see it.
///
/// # Errors
/// Another dtype; a tensor that is not contiguous.
pub fn zero(sum: &Tensor) -> Result<()> {
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(sum) {
        return cuda::zero(sum);
    }
    with_mut(OP, sum, |sum| sum.fill(0.0))
}

/// Adds `x` (f32 or bf16) to `sum` (f32), of one shape and each of its own storage. Views of the storage of `sum` see it.
///
/// # Errors
/// Shapes that differ; another dtype; shared storage; tensors that are not contiguous.
pub fn add(sum: &Tensor, x: &Tensor) -> Result<()> {
    expect_shape(OP, "x", x, sum.dims())?;
    distinct(OP, &[sum, x])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(sum) {
        return cuda::add(sum, x);
    }
    let x = read(OP, x)?;
    with_mut(OP, sum, |sum| cpu::add(sum, &x))
}
