//! Addition by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, suffix};

pub(super) fn zero(sum: &Tensor) -> Result<()> {
    let n = sum.elem_count();
    let call = Call::new(OP, OP, "accumulate_zero").of(sum, DType::F32).u64(n as u64);
    call.launch([n.div_ceil(4 * 256), 1, 1], 256, 0)
}

pub(super) fn add(sum: &Tensor, x: &Tensor) -> Result<()> {
    let n = sum.elem_count();
    let name = format!("accumulate_add_{}", suffix(OP, x.dtype())?);
    let call = Call::new(OP, OP, &name).of(sum, DType::F32).tensor(x).u64(n as u64);
    call.launch([n.div_ceil(4 * 256), 1, 1], 256, 0)
}
