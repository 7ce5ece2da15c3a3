//! Whether an optimizer steps, and by what its gradients are scaled: decided where the gradients are, so that no host waits for them.
//!
//! A step is taken if the gradients' norm is finite; they are scaled by `min(1, clip_norm / (norm + 1e-6))`, as
//! `torch.nn.utils.clip_grad_norm_` does.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Device, Tensor};

use crate::tensor::{expect_shape, with_mut_f64};
use crate::{Error, Result};

const OP: &str = "step_control";

/// What a decision goes by, besides the gradients.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The largest norm; 0: any.
    pub clip_norm: f64,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
}

/// What is to be done with a step: known to the host, or where the gradients are.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// Step number `step`, the first being 1, is taken, by the gradients times `grad_scale`.
    Taken {
        /// The number.
        step: u64,
        /// The factor.
        grad_scale: f32,
    },
    /// As [`decide`] says.
    Made(&'a Tensor),
}

/// [`decide`]'s result, as read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    /// Whether the step is taken.
    pub go: bool,
    /// What gradients are multiplied by.
    pub grad_scale: f64,
    /// Steps taken, this one included.
    pub steps: f64,
    /// The gradients' norm.
    pub norm: f64,
}

/// Numbers in a decision: go (1 or 0), scale, steps taken, `1 - beta1^steps`, `1 - beta2^steps`, norm.
const LEN: usize = 6;

/// Decides about a step from the gradients' `sum_of_squares` [1] f64, and counts it in `steps` [1] f64 if it is taken: [6] f64 for
/// [`Decision::Made`].
///
/// # Errors
/// Other shapes or dtypes.
pub fn decide(sum_of_squares: &Tensor, steps: &Tensor, rule: Rule) -> Result<Tensor> {
    for (what, tensor) in [("sum_of_squares", sum_of_squares), ("steps", steps)] {
        expect_shape(OP, what, tensor, &[1])?;
        if tensor.dtype() != DType::F64 {
            return Err(Error::DType { op: OP, dtype: tensor.dtype() });
        }
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(steps) {
        return cuda::decide(sum_of_squares, steps, rule);
    }
    let sum = sum_of_squares.to_vec1::<f64>()?[0];
    let decided = with_mut_f64(OP, steps, |steps| cpu::decide(sum, &mut steps[0], rule))?;
    Ok(Tensor::from_slice(&decided, LEN, &Device::Cpu)?)
}

impl Decided {
    /// What the numbers of [`decide`]'s result say.
    ///
    /// # Errors
    /// More or fewer numbers than it has.
    pub fn from_numbers(numbers: &[f64]) -> Result<Self> {
        let &[go, grad_scale, steps, _, _, norm] = numbers else {
            return Err(Error::Value { op: OP, message: format!("{} numbers are no decision", numbers.len()) });
        };
        Ok(Self { go: go != 0.0, grad_scale, steps, norm })
    }
}

/// What `decision`, [`decide`]'s, says. Waits for the device.
///
/// # Errors
/// Another shape or dtype.
pub fn read(decision: &Tensor) -> Result<Decided> {
    Decided::from_numbers(&decision.to_vec1()?)
}

impl Decision<'_> {
    /// The step's number and its gradients' scale, if it is taken; for ops whose tensors are on the host.
    pub(crate) fn on_host(self) -> Result<Option<(u64, f32)>> {
        match self {
            Self::Taken { step, grad_scale } => Ok(Some((step, grad_scale))),
            Self::Made(decision) => {
                let Decided { go, grad_scale, steps, .. } = read(decision)?;
                Ok(go.then_some((steps as u64, grad_scale as f32)))
            }
        }
    }

    /// The tensor of a decision that was made on a device.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    pub(crate) fn made(&self) -> Option<&Tensor> {
        match self {
            Self::Made(decision) => Some(decision),
            Self::Taken { .. } => None,
        }
    }
}
