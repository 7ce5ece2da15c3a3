//! One step of stochastic gradient descent on flat parameters, in place: `torch.optim.SGD` (no dampening, no Nesterov).

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::step_control::Decision;
use crate::tensor::{distinct, expect_shape, read, round_to_bf16, with_mut, with_mut_bf16};
use crate::{Error, Result};

const OP: &str = "sgd";

/// What a step depends on besides tensors.
#[derive(Clone, Copy, Debug)]
pub struct Hyper<'a> {
    /// Learning rate.
    pub lr: f64,
    /// The share of the last step's direction kept; 0 for none.
    pub momentum: f64,
    /// Added to the gradient, times the parameters.
    pub weight_decay: f64,
    /// Whether the step is taken, and what the gradient is multiplied by before anything else.
    pub decision: Decision<'a>,
}

/// Steps `master` (f32) by `grad` (f32 or bf16) and refreshes the bf16 copy `compute`. `momentum_buffer` (f32, zeros before
/// the first step) is needed where the momentum is not 0.
///
/// All are contiguous views of one length, each of its own storage.
///
/// Errors: lengths that differ, a dtype other than these, tensors that share storage, momentum without its buffer.
pub fn step(
    master: &Tensor,
    momentum_buffer: Option<&Tensor>,
    grad: &Tensor,
    compute: Option<&Tensor>,
    hyper: Hyper,
) -> Result<()> {
    let mut tensors = vec![master];
    for (what, tensor) in [("grad", Some(grad)), ("momentum_buffer", momentum_buffer), ("compute", compute)] {
        if let Some(tensor) = tensor {
            expect_shape(OP, what, tensor, master.dims())?;
            tensors.push(tensor);
        }
    }
    distinct(OP, &tensors)?;
    if hyper.momentum != 0.0 && momentum_buffer.is_none() {
        return Err(Error::Value { op: OP, message: format!("momentum {} needs a buffer", hyper.momentum) });
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(master) {
        return cuda::step(master, momentum_buffer, grad, compute, hyper);
    }
    let Some((_, grad_scale)) = hyper.decision.on_host()? else { return Ok(()) };
    let grad = read(OP, grad)?;
    let update = |compute: Option<&mut [half::bf16]>| {
        with_mut(OP, master, |master| {
            match momentum_buffer {
                Some(buffer) => {
                    with_mut(OP, buffer, |buffer| cpu::step_momentum(master, buffer, &grad, hyper, grad_scale))?
                }
                None => cpu::step(master, &grad, hyper, grad_scale),
            }
            if let Some(compute) = compute {
                round_to_bf16(master, compute);
            }
            Ok(())
        })?
    };
    match compute {
        Some(compute) => with_mut_bf16(OP, compute, |compute| update(Some(compute)))?,
        None => update(None),
    }
}
