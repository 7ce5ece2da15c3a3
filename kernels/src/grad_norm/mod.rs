//! The sum of squares of a flat gradient, for its norm.

pub mod cpu;
pub mod reference;

use candle_core::Tensor;

use crate::Result;
use crate::tensor::read;

/// `Σ x²` over all of `flat`, accumulated in f64. If any element is not finite, neither is the sum: it is no error here.
pub fn sum_of_squares(flat: &Tensor) -> Result<f64> {
    Ok(cpu::sum_of_squares(&read("grad_norm", flat)?))
}
