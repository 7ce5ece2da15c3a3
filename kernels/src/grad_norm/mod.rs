//! The sum of squares of a flat gradient, for its norm.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::tensor::read;

const OP: &str = "grad_norm";

/// `Σ x²` over all of `flats`, accumulated in f64: [1] f64 on their device. If any element is not finite, neither is the sum: it is no error here.
pub fn sum_of_squares(flats: &[&Tensor]) -> Result<Tensor> {
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if flats.first().is_some_and(|flat| crate::cuda::takes(flat))
        && let Some(sum) = cuda::sum_of_squares(flats)?
    {
        return Ok(sum);
    }
    let mut sum = 0.0;
    for flat in flats {
        sum += cpu::sum_of_squares(&read(OP, flat)?);
    }
    Ok(Tensor::from_vec(vec![sum], 1, &Device::Cpu)?)
}
