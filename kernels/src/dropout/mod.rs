//! Dropout whose mask is never stored: element `(i, j)` of a sequence is dropped when the counter-based generator
//! ([`crate::rng`]) says so, and says so again in the backward pass, in a recomputation and after a resume.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result, SeqLens, rng};

const OP: &str = "dropout";

/// `x [t, d]` with elements zeroed with probability `p` and the others scaled by `1 / (1 - p)`; `streams` holds the key of
/// each sequence of `seq`. Row numbers count from the sequence's first, so its mask does not depend on its neighbours.
/// The backward pass is the same call on the gradient.
///
/// Errors: `p` outside [0, 1), `seq` of another total than `t`, a number of streams other than of sequences.
pub fn apply(x: &Tensor, p: f32, seq: &SeqLens, streams: &[u64]) -> Result<Tensor> {
    check(x, p, seq, streams)?;
    if p == 0.0 {
        return Ok(x.clone());
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::apply(None, x, p, seq, streams);
    }
    let mask = Mask::new(x, p, seq, streams)?;
    write(OP, cpu::apply(&read(OP, x)?, &mask), x.shape(), x.dtype())
}

/// `residual + apply(x)` in one pass, in the dtype of `residual`.
///
/// Errors: as [`apply`]'s; `residual` of another shape than `x`.
pub fn add_dropout(residual: &Tensor, x: &Tensor, p: f32, seq: &SeqLens, streams: &[u64]) -> Result<Tensor> {
    expect_shape(OP, "residual", residual, x.dims())?;
    check(x, p, seq, streams)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::apply(Some(residual), x, p, seq, streams);
    }
    let mask = Mask::new(x, p, seq, streams)?;
    write(OP, cpu::add(&read(OP, residual)?, &read(OP, x)?, &mask), x.shape(), residual.dtype())
}

fn check(x: &Tensor, p: f32, seq: &SeqLens, streams: &[u64]) -> Result<()> {
    let (_, width) = dims2(OP, "x", x)?;
    expect_shape(OP, "x", x, &[seq.total(), width])?;
    if streams.len() != seq.count() {
        let message = format!("{} streams for {} sequences", streams.len(), seq.count());
        return Err(Error::Value { op: OP, message });
    }
    if !(0.0..1.0).contains(&p) {
        return Err(Error::Value { op: OP, message: format!("probability {p} is outside [0, 1)") });
    }
    Ok(())
}

/// Which elements of a packed matrix are dropped.
pub struct Mask {
    /// Each row's key.
    keys: Vec<u32>,
    /// Drawn bits below this drop.
    threshold: u32,
    /// What the others are multiplied by.
    scale: f32,
    /// The rows' width.
    width: usize,
}

impl Mask {
    /// Of arguments that [`check`] passed.
    fn new(x: &Tensor, p: f32, seq: &SeqLens, streams: &[u64]) -> Result<Self> {
        let (_, width) = dims2(OP, "x", x)?;
        let rows = seq.lens().zip(streams).flat_map(|(len, &stream)| (0..len).map(move |i| rng::row(stream, i as u64)));
        Ok(Self { keys: rows.collect(), threshold: rng::threshold(p), scale: 1.0 / (1.0 - p), width })
    }
}
