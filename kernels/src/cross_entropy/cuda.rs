//! Cross-entropy of a few classes by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Call, empty, suffix, upload, zeros};

/// Threads of a block.
const THREADS: usize = 256;

pub(super) fn forward(logits: &Tensor, labels: &[u32], [n, c]: [usize; 2]) -> Result<(Tensor, Tensor)> {
    let (p, results) = (empty((n, c), DType::F32, logits)?, empty((n, 2), DType::F64, logits)?);
    let (labels, sums) = (upload(labels, logits)?, zeros(2, DType::F64, logits)?);
    let name = format!("cross_entropy_{}", suffix(OP, logits.dtype())?);
    let call = Call::new(OP, OP, &name).tensor(logits).tensor(&labels).tensor(&p).tensor(&results).u32(c);
    call.launch([n, 1, 1], THREADS.min(c.next_multiple_of(32)), 0)?;
    let call = Call::new(OP, OP, "cross_entropy_sums").tensor(&results).tensor(&sums).u32(n);
    call.launch([1, 1, 1], THREADS, 0)?;
    Ok((sums, p))
}

pub(super) fn backward(p: &Tensor, labels: &[u32], [n, c]: [usize; 2]) -> Result<Tensor> {
    let (grad, labels) = (empty((n, c), DType::F32, p)?, upload(labels, p)?);
    let call = Call::new(OP, OP, "cross_entropy_backward").tensor(p).tensor(&labels).tensor(&grad).u32(n).u32(c);
    call.launch([(n * c).div_ceil(THREADS), 1, 1], THREADS, 0)?;
    Ok(grad)
}
