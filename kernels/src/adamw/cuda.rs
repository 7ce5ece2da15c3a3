//! An AdamW step by a kernel.

use candle_core::{DType, Tensor};

use super::cpu::Constants;
use super::{Hyper, OP};
use crate::Result;
use crate::cuda::{Call, suffix};
use crate::step_control::Decision;

pub(super) fn step([master, m, v]: [&Tensor; 3], grad: &Tensor, compute: Option<&Tensor>, hyper: Hyper) -> Result<()> {
    let n = master.elem_count();
    // A decision that is the device's leaves the host's numbers to be corrected there.
    let (number, grad_scale) = match hyper.decision {
        Decision::Taken { step, grad_scale } => (Some(step), grad_scale),
        Decision::Made(_) => (None, 1.0),
    };
    let c = match number {
        Some(number) => Constants::new(hyper, number, grad_scale),
        None => Constants::uncorrected(hyper),
    };
    let name = format!("adamw_step_{}", suffix(OP, grad.dtype())?);
    let call = Call::new(OP, OP, &name).of(master, DType::F32).of(m, DType::F32).of(v, DType::F32);
    let call = call.tensor(grad).maybe(compute, DType::BF16).maybe(hyper.decision.made(), DType::F64);
    let call = call.u64(n as u64).f32(c.grad_scale).f32(c.keep).f32(c.beta2).f32(c.one_minus_beta1);
    let call = call.f32(c.one_minus_beta2).f32(c.step_size).f32(c.root_correction2).f32(c.eps);
    call.launch([n.div_ceil(4 * 256), 1, 1], 256, 0)
}
