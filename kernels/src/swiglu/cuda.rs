//! SwiGLU by kernels.

use candle_core::Tensor;

use super::OP;
use crate::Result;
use crate::cuda::{Call, FLAT_THREADS, alike, empty, flat};

pub(super) fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (n, dtype) = (gate.elem_count(), gate.dtype());
    let y = empty(gate.shape(), dtype, gate)?;
    let name = format!("swiglu_forward_{}", alike(OP, &[gate, up])?);
    let call = Call::new(OP, OP, &name).tensor(gate).tensor(up).tensor(&y).u64(n as u64);
    call.launch(flat(n, dtype), FLAT_THREADS, 0)?;
    Ok(y)
}

pub(super) fn backward(grad: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, dtype) = (gate.elem_count(), gate.dtype());
    let (dgate, dup) = (empty(gate.shape(), dtype, gate)?, empty(gate.shape(), dtype, gate)?);
    let name = format!("swiglu_backward_{}", alike(OP, &[grad, gate, up])?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(gate).tensor(up).tensor(&dgate).tensor(&dup);
    call.u64(n as u64).launch(flat(n, dtype), FLAT_THREADS, 0)?;
    Ok((dgate, dup))
}
