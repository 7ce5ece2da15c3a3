//! A step of gradient descent by a kernel.

use candle_core::{DType, Tensor};

use super::{Hyper, OP};
use crate::Result;
use crate::cuda::{Call, suffix};
use crate::step_control::Decision;

pub(super) fn step(
    master: &Tensor,
    buffer: Option<&Tensor>,
    grad: &Tensor,
    compute: Option<&Tensor>,
    h: Hyper,
) -> Result<()> {
    let n = master.elem_count();
    let grad_scale = if let Decision::Taken { grad_scale, .. } = h.decision { grad_scale } else { 1.0 };
    let name = format!("sgd_step_{}", suffix(OP, grad.dtype())?);
    let call = Call::new(OP, OP, &name).of(master, DType::F32).maybe(buffer, DType::F32).tensor(grad);
    let call = call
        .maybe(compute, DType::BF16)
        .maybe(h.decision.made(), DType::F64)
        .u64(n as u64)
        .f32(h.lr as f32)
        .f32(h.momentum as f32);
    let call = call.f32(h.weight_decay as f32).f32(grad_scale);
    call.launch([n.div_ceil(256), 1, 1], 256, 0)
}
