//! A step of gradient descent by a kernel.

use candle_core::{DType, Tensor};

use super::{Hyper, OP};
use crate::Result;
use crate::cuda::{Call, suffix};

pub(super) fn step(
    master: &Tensor,
    buffer: Option<&Tensor>,
    grad: &Tensor,
    compute: Option<&Tensor>,
    h: Hyper,
) -> Result<()> {
    let n = master.elem_count();
    let name = format!("sgd_step_{}", suffix(OP, grad.dtype())?);
    let call = Call::new(OP, OP, &name).of(master, DType::F32).maybe(buffer, DType::F32).tensor(grad);
    let call = call.maybe(compute, DType::BF16).u64(n as u64).f32(h.lr as f32).f32(h.momentum as f32);
    let call = call.f32(h.weight_decay as f32).f32(h.grad_scale);
    call.launch([n.div_ceil(256), 1, 1], 256, 0)
}
