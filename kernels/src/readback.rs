//! Numbers brought from a device to the host without waiting for the device.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

const OP: &str = "readback";

/// Numbers on their way to the host: they leave when the device has done what it was asked for before, and may be asked for later.
#[derive(Debug)]
pub struct Readback(State);

#[derive(Debug)]
enum State {
    /// Of the host itself.
    Here(Vec<f64>),
    #[cfg(feature = "cuda")]
    Coming(crate::cuda::Coming),
}

impl Readback {
    /// Starts to bring all numbers of `tensors`, f64 of one dimension and one device, in their order.
    ///
    /// # Errors
    /// Other shapes or dtypes, or several devices.
    pub fn start(tensors: &[&Tensor]) -> Result<Self> {
        if let Some(other) = tensors.iter().find(|t| t.dtype() != DType::F64) {
            return Err(Error::DType { op: OP, dtype: other.dtype() });
        }
        if tensors.is_empty() {
            return Ok(Self(State::Here(Vec::new())));
        }
        let all = Tensor::cat(tensors, 0)?;
        #[cfg(feature = "cuda")]
        if all.device().is_cuda() {
            return Ok(Self(State::Coming(crate::cuda::Coming::start(&all)?)));
        }
        Ok(Self(State::Here(all.to_vec1()?)))
    }

    /// Whether they have arrived.
    ///
    /// # Errors
    /// What went wrong on the device before.
    pub fn is_there(&self) -> Result<bool> {
        match &self.0 {
            State::Here(_) => Ok(true),
            #[cfg(feature = "cuda")]
            State::Coming(coming) => coming.is_there(),
        }
    }

    /// The numbers; waits for them.
    ///
    /// # Errors
    /// What went wrong on the device before.
    pub fn numbers(self) -> Result<Vec<f64>> {
        match self.0 {
            State::Here(numbers) => Ok(numbers),
            #[cfg(feature = "cuda")]
            State::Coming(coming) => coming.numbers(),
        }
    }
}
