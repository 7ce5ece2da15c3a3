//! Frame stacking: `k` consecutive rows of a sequence side by side, the sequence's tail padded with zeros.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result, SeqLens};

const OP: &str = "stack";

/// `x [t, d]` whose sequences are `seq` to `[t', k·d]` and the stacked sequences, of `⌈len / k⌉` rows each.
///
/// Errors: `k = 0`, `seq` of another total than `t`.
pub fn forward(x: &Tensor, seq: &SeqLens, k: usize) -> Result<(Tensor, SeqLens)> {
    let (_, d) = dims2(OP, "x", x)?;
    expect_shape(OP, "x", x, &[seq.total(), d])?;
    let stacked = stacked(seq, k)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return Ok((cuda::forward(x, seq, &stacked, k)?, stacked));
    }
    let y = cpu::forward(&read(OP, x)?, seq, &stacked, d, k);
    Ok((write(OP, y, (stacked.total(), k * d), x.dtype())?, stacked))
}

/// The gradient `[t, d]` for `x`, from `grad [t', k·d]`; `seq` are `x`'s sequences.
pub fn backward(grad: &Tensor, seq: &SeqLens, k: usize) -> Result<Tensor> {
    let stacked = stacked(seq, k)?;
    let (_, width) = dims2(OP, "grad", grad)?;
    let d = width / k;
    expect_shape(OP, "grad", grad, &[stacked.total(), k * d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward(grad, seq, &stacked, d, k);
    }
    write(OP, cpu::backward(&read(OP, grad)?, seq, &stacked, d, k), (seq.total(), d), grad.dtype())
}

fn stacked(seq: &SeqLens, k: usize) -> Result<SeqLens> {
    if k == 0 {
        return Err(Error::Value { op: OP, message: "cannot stack 0 frames".into() });
    }
    Ok(SeqLens::from_lens(seq.lens().map(|len| len.div_ceil(k))))
}
