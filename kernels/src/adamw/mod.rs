//! One AdamW step on flat parameters, in place: `torch.optim.AdamW` (Loshchilov and Hutter 2019), decoupled decay.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::step_control::Decision;
use crate::tensor::{distinct, expect_shape, read, with_mut, with_mut_bf16};
use crate::{Error, Result};

const OP: &str = "adamw";

/// What a step depends on besides tensors.
#[derive(Clone, Copy, Debug)]
pub struct Hyper<'a> {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled: each step first multiplies the parameters by `1 - lr · weight_decay`.
    pub weight_decay: f64,
    /// Whether the step is taken, which it is (for the correction of the moments' bias), and what the gradient is multiplied by before anything
    /// else.
    pub decision: Decision<'a>,
}

/// Steps `master` and its moments `m` and `v` (f32) by `grad` (f32 or bf16), and refreshes the bf16 copy `compute`.
///
/// All are contiguous views of one length, each of its own storage.
///
/// Errors: lengths that differ, a dtype other than these, tensors that share storage, step 0.
pub fn step(
    master: &Tensor,
    m: &Tensor,
    v: &Tensor,
    grad: &Tensor,
    compute: Option<&Tensor>,
    hyper: Hyper,
) -> Result<()> {
    expect_shape(OP, "m", m, master.dims())?;
    expect_shape(OP, "v", v, master.dims())?;
    expect_shape(OP, "grad", grad, master.dims())?;
    let mut tensors = vec![master, m, v, grad];
    if let Some(compute) = compute {
        expect_shape(OP, "compute", compute, master.dims())?;
        tensors.push(compute);
    }
    distinct(OP, &tensors)?;
    if matches!(hyper.decision, Decision::Taken { step: 0, .. }) {
        return Err(Error::Value { op: OP, message: "steps count from 1".into() });
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(master) {
        return cuda::step([master, m, v], grad, compute, hyper);
    }
    let Some((number, grad_scale)) = hyper.decision.on_host()? else { return Ok(()) };
    let constants = cpu::Constants::new(hyper, number, grad_scale);
    let grad = read(OP, grad)?;
    let update = |compute: Option<&mut [half::bf16]>| {
        with_mut(OP, master, |master| {
            with_mut(OP, m, |m| with_mut(OP, v, |v| cpu::step(master, m, v, &grad, compute, &constants)))
        })???;
        Ok(())
    };
    match compute {
        Some(compute) => with_mut_bf16(OP, compute, |compute| update(Some(compute)))?,
        None => update(None),
    }
}
