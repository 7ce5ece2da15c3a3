//! The decision by a kernel.

use candle_core::{DType, Tensor};

use super::{LEN, OP, Rule};
use crate::Result;
use crate::cuda::{Call, empty};

pub(super) fn decide(sum_of_squares: &Tensor, steps: &Tensor, rule: Rule) -> Result<Tensor> {
    let decision = empty(LEN, DType::F64, steps)?;
    let call = Call::new(OP, OP, "step_control_decide").tensor(sum_of_squares).tensor(steps).tensor(&decision);
    call.f64(rule.clip_norm).f64(rule.beta1).f64(rule.beta2).launch([1, 1, 1], 32, 0)?;
    Ok(decision)
}
