//! An AdamW step by a kernel.

use candle_core::{DType, Tensor};

use super::cpu::Constants;
use super::{Hyper, OP};
use crate::Result;
use crate::cuda::{Call, suffix};

pub(super) fn step([master, m, v]: [&Tensor; 3], grad: &Tensor, compute: Option<&Tensor>, hyper: Hyper) -> Result<()> {
    let (n, c) = (master.elem_count(), Constants::new(hyper));
    let name = format!("adamw_step_{}", suffix(OP, grad.dtype())?);
    let call = Call::new(OP, OP, &name).of(master, DType::F32).of(m, DType::F32).of(v, DType::F32);
    let call = call.tensor(grad).maybe(compute, DType::BF16);
    let call = call.u64(n as u64).f32(c.grad_scale).f32(c.keep).f32(c.beta2).f32(c.one_minus_beta1);
    let call = call.f32(c.one_minus_beta2).f32(c.step_size).f32(c.root_correction2).f32(c.eps);
    call.launch([n.div_ceil(4 * 256), 1, 1], 256, 0)
}
