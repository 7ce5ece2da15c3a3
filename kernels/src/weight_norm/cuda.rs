//! Weight normalisation by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, alike, column_sum, empty, zeros};

/// Rows a block adds up, as in the kernel.
const ROWS: usize = 128;

pub(super) fn forward(v: &Tensor, g: &Tensor) -> Result<Tensor> {
    let (n, k, name) = (v.elem_count(), g.elem_count(), alike(OP, &[v, g])?);
    let w = empty(v.shape(), v.dtype(), v)?;
    let sums = sums(v, None, k)?;
    let name = format!("weight_norm_apply_{name}");
    let call = Call::new(OP, OP, &name).tensor(v).tensor(g).tensor(&sums).tensor(&w).u64(n as u64).u32(k);
    call.launch([n.div_ceil(256), 1, 1], 256, 0)?;
    Ok(w)
}

pub(super) fn backward(grad: &Tensor, v: &Tensor, g: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, k, name) = (v.elem_count(), g.elem_count(), alike(OP, &[v, g])?);
    let grad = grad.to_dtype(DType::F32)?;
    let (dv, dg) = (empty(v.shape(), DType::F32, v)?, zeros((1, 1, k), DType::F32, v)?);
    let sums = sums(v, Some(&grad), k)?;
    let name = format!("weight_norm_backward_{name}");
    let call = Call::new(OP, OP, &name).tensor(&grad).tensor(v).tensor(g).tensor(&sums).tensor(&dv).tensor(&dg);
    call.u64(n as u64).u32(k).launch([n.div_ceil(256), 1, 1], 256, 0)?;
    Ok((dv, dg))
}

/// [2 k]: each column's sum of v squared, then of grad v.
fn sums(v: &Tensor, grad: Option<&Tensor>, k: usize) -> Result<Tensor> {
    let rows = v.elem_count() / k.max(1);
    let blocks = rows.div_ceil(ROWS);
    let partial = empty((blocks, 2 * k), DType::F32, v)?;
    let name = format!("weight_norm_dots_{}", alike(OP, &[v])?);
    let call = Call::new(OP, OP, &name).tensor(v).maybe(grad, DType::F32).tensor(&partial).u32(rows).u32(k);
    call.launch([blocks, 1, 1], 128, 0)?;
    column_sum(OP, &partial)
}
