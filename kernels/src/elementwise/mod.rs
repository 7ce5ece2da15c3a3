//! Sums and multiples of whole tensors, on our own threads (candle's binary ops spin on a pool of theirs).

mod cpu;
pub(crate) use cpu::add as sum;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::Result;
use crate::tensor::{expect_shape, read, write};

/// `a + b`, of one shape, in a's dtype.
///
/// # Errors
/// Other shapes; a dtype other than f32 or bf16.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "add";
    expect_shape(OP, "b", b, a.dims())?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(a) {
        return cuda::add(OP, a, b);
    }
    write(OP, cpu::add(&read(OP, a)?, &read(OP, b)?), a.shape(), a.dtype())
}

/// `factor · x`, in x's dtype.
///
/// # Errors
/// A dtype other than f32 or bf16.
pub fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    const OP: &str = "scale";
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::scale(OP, x, factor as f32);
    }
    write(OP, cpu::scale(&read(OP, x)?, factor as f32), x.shape(), x.dtype())
}
