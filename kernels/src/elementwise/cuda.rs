//! Sums and multiples of whole tensors by kernels.

use candle_core::Tensor;

use crate::Result;
use crate::cuda::{Call, FLAT_THREADS, alike, empty, flat, suffix};

const MODULE: &str = "elementwise";

pub(super) fn add(op: &'static str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (n, dtype) = (a.elem_count(), a.dtype());
    let y = empty(a.shape(), dtype, a)?;
    let name = format!("add_{}", alike(op, &[a, b])?);
    let call = Call::new(op, MODULE, &name).tensor(a).tensor(b).tensor(&y).u64(n as u64);
    call.launch(flat(n, dtype), FLAT_THREADS, 0)?;
    Ok(y)
}

pub(super) fn scale(op: &'static str, x: &Tensor, factor: f32) -> Result<Tensor> {
    let (n, dtype) = (x.elem_count(), x.dtype());
    let y = empty(x.shape(), dtype, x)?;
    let name = format!("scale_{}", suffix(op, dtype)?);
    let call = Call::new(op, MODULE, &name).tensor(x).tensor(&y).f32(factor).u64(n as u64);
    call.launch(flat(n, dtype), FLAT_THREADS, 0)?;
    Ok(y)
}
