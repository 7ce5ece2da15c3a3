//! Rows divided by their norm, by kernels.

use candle_core::{DType, Tensor};

use super::{EPS, OP};
use crate::Result;
use crate::cuda::{Call, alike, empty, row_threads, suffix, width};

pub(super) fn forward(w: &Tensor) -> Result<(Tensor, Tensor)> {
    let ((v, d), dtype) = (w.dims2()?, w.dtype());
    let (y, norms) = (empty((v, d), dtype, w)?, empty(v, DType::F32, w)?);
    let name = format!("row_normalize_forward_{}_{}", width(d, dtype), suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(w).tensor(&y).tensor(&norms).u32(d).f32(EPS);
    call.launch([v, 1, 1], row_threads(OP, d, dtype)?, 0)?;
    Ok((y, norms))
}

pub(super) fn backward(grad: &Tensor, w: &Tensor, norms: &Tensor) -> Result<Tensor> {
    let ((v, d), dtype) = (w.dims2()?, w.dtype());
    let dw = empty((v, d), dtype, w)?;
    let name = format!("row_normalize_backward_{}_{}", width(d, dtype), alike(OP, &[grad, w])?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(w).tensor(norms).tensor(&dw).u32(d).f32(EPS);
    call.launch([v, 1, 1], row_threads(OP, d, dtype)?, 0)?;
    Ok(dw)
}
