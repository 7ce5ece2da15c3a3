//! The weighted sum over an encoder's layers, and each layer's mean over time, in one read of them.
//!
//! `y = sum_l softmax(w)_l x_l` for a vector `w` of L raw scalars. E-chat has two such sums: one for the words, kept as it is, and one for the
//! emotion, of which only the mean over time is wanted. Mean and sum commute, so the second is the sum of the layers' means: what depends on its weights
//! is a few rows instead of all frames, and a frozen encoder's features can be kept without knowing them.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::{Error, Result, SeqLens, tensor};

const OP: &str = "layer_sum";

/// Which gradients [`backward`] is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Those of the layers.
    pub layers: bool,
    /// That of the raw weights.
    pub weights: bool,
}

/// What [`backward`] computed: exactly what was asked for.
#[derive(Clone, Debug)]
pub struct Grads {
    /// L × [t, d], in the layers' dtype.
    pub layers: Option<Vec<Tensor>>,
    /// [L] f32.
    pub weights: Option<Tensor>,
}

/// The sum of `layers` (L × [t, d]) by the raw `weights` [L] f32: [t, d]; and if `seq` says which rows belong together, the mean of each
/// layer over each sequence's rows: [L, n, d].
pub fn forward(layers: &[Tensor], weights: &Tensor, seq: Option<&SeqLens>) -> Result<(Tensor, Option<Tensor>)> {
    let (t, d) = check(layers, weights, seq)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(weights) {
        return cuda::forward(layers, weights, seq);
    }
    let dtype = layers[0].dtype();
    let read = layers.iter().map(|x| tensor::read(OP, x)).collect::<Result<Vec<_>>>()?;
    let slices: Vec<&[f32]> = read.iter().map(|x| &**x).collect();
    let sum = tensor::write(OP, cpu::sum(&slices, &softmax(weights)?), (t, d), dtype)?;
    let means = |seq: &SeqLens| tensor::write(OP, cpu::means(&slices, seq, d), (layers.len(), seq.count(), d), dtype);
    Ok((sum, seq.map(means).transpose()?))
}

/// The gradients `needs` names, from those of the sum, `grad` [t, d], and of the means, `grad_means` [L, n, d]: `None` counts as
/// zeros.
pub fn backward(
    grad: Option<&Tensor>,
    grad_means: Option<&Tensor>,
    layers: &[Tensor],
    weights: &Tensor,
    seq: Option<&SeqLens>,
    needs: Needs,
) -> Result<Grads> {
    let (t, d) = check(layers, weights, seq)?;
    if let Some(grad) = grad {
        tensor::expect_shape(OP, "grad", grad, &[t, d])?;
    }
    let means = match (grad_means, seq) {
        (Some(grad), Some(seq)) => {
            tensor::expect_shape(OP, "grad_means", grad, &[layers.len(), seq.count(), d])?;
            Some((grad, seq))
        }
        (Some(_), None) => {
            return Err(Error::Value { op: OP, message: "a gradient of the means without their sequences".into() });
        }
        (None, _) => None,
    };
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(weights) {
        return cuda::backward(grad, means, layers, weights, needs);
    }
    let grad = grad.map(|grad| tensor::read(OP, grad)).transpose()?;
    let read = layers.iter().map(|x| tensor::read(OP, x)).collect::<Result<Vec<_>>>()?;
    let slices: Vec<&[f32]> = read.iter().map(|x| &**x).collect();
    let softmaxed = softmax(weights)?;
    let from_sum = grad.as_deref().map(|grad| cpu::FromSum { grad, weights: &softmaxed, dots: needs.weights });
    let (mut d_layers, d_weights) = cpu::backward(from_sum.as_ref(), &slices, t * d, needs.layers);
    if let Some((grad, seq)) = means {
        cpu::add_from_means(&mut d_layers, &tensor::read(OP, grad)?, seq, d);
    }
    let write = |values| tensor::write(OP, values, (t, d), layers[0].dtype());
    let layers = if needs.layers { Some(d_layers.into_iter().map(write).collect::<Result<Vec<_>>>()?) } else { None };
    let weights = needs.weights.then(|| tensor::write(OP, d_weights, slices.len(), DType::F32)).transpose()?;
    Ok(Grads { layers, weights })
}

fn check(layers: &[Tensor], weights: &Tensor, seq: Option<&SeqLens>) -> Result<(usize, usize)> {
    let Some(first) = layers.first() else {
        return Err(Error::Value { op: OP, message: "no layers to sum".into() });
    };
    let (t, d) = tensor::dims2(OP, "layer", first)?;
    for layer in layers {
        tensor::expect_shape(OP, "layer", layer, &[t, d])?;
    }
    if let Some(seq) = seq {
        tensor::expect_shape(OP, "layer", first, &[seq.total(), d])?;
    }
    tensor::expect_shape(OP, "weights", weights, &[layers.len()])?;
    Ok((t, d))
}

/// The softmax of a few raw scalars, in f64.
fn softmax(raw: &Tensor) -> Result<Vec<f64>> {
    let raw: Vec<f64> = tensor::read(OP, raw)?.iter().map(|&x| f64::from(x)).collect();
    Ok(crate::cross_entropy::reference::softmax(&raw))
}
