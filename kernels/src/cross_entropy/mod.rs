//! Softmax cross-entropy of logits that are at hand: a few classes, not a vocabulary (for that, `linear_cross_entropy`).

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result, tensor};

const OP: &str = "cross_entropy";

/// For `logits` [n, c]: [2] f64, the sum over rows of `-ln p(label)` and how many rows have their greatest logit (the first of equals) at the label; and the
/// probabilities [n, c] f32 that [`backward`] needs.
///
/// A label outside `0..c` is an error; a loss that is not finite is returned as it is.
pub fn forward(logits: &Tensor, labels: &[u32]) -> Result<(Tensor, Tensor)> {
    let (n, c) = check(logits, labels)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(logits) {
        return cuda::forward(logits, labels, [n, c]);
    }
    let (loss, correct, probabilities) = cpu::forward(&tensor::read(OP, logits)?, c, labels);
    let sums = Tensor::from_vec(vec![loss, correct as f64], 2, &Device::Cpu)?;
    Ok((sums, tensor::write(OP, probabilities, (n, c), DType::F32)?))
}

/// The gradient [n, c] f32 of the summed loss with respect to the logits.
pub fn backward(probabilities: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (n, c) = check(probabilities, labels)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(probabilities) {
        return cuda::backward(probabilities, labels, [n, c]);
    }
    tensor::write(OP, cpu::backward(&tensor::read(OP, probabilities)?, c, labels), (n, c), DType::F32)
}

fn check(scores: &Tensor, labels: &[u32]) -> Result<(usize, usize)> {
    let (n, c) = tensor::dims2(OP, "logits", scores)?;
    if labels.len() != n {
        return Err(Error::Value { op: OP, message: format!("{} labels for {n} rows of logits", labels.len()) });
    }
    if let Some(label) = labels.iter().find(|&&label| label as usize >= c) {
        return Err(Error::Value { op: OP, message: format!("label {label} is not one of {c} classes") });
    }
    Ok((n, c))
}
