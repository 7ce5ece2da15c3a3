//! Two weighted sums over an encoder's layers in one read of them (E-chat: one for the words, one for the emotion).
//!
//! `y = sum_l softmax(w)_l x_l` for two vectors `w` of L raw scalars; the second is optional.

mod cpu;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::{Error, Result, tensor};

const OP: &str = "layer_sum";

/// Which gradients [`backward`] is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Those of the layers.
    pub layers: bool,
    /// That of the speech sum's raw weights.
    pub speech: bool,
    /// That of the emotion sum's raw weights.
    pub emotion: bool,
}

/// What [`backward`] computed: exactly what was asked for.
#[derive(Clone, Debug)]
pub struct Grads {
    /// L × [t, d], in the layers' dtype.
    pub layers: Option<Vec<Tensor>>,
    /// [L] f32.
    pub speech: Option<Tensor>,
    /// [L] f32.
    pub emotion: Option<Tensor>,
}

/// The sums of `layers` (L × [t, d]) by the raw weights `speech` [L] f32 and, if given, `emotion` [L] f32: each [t, d].
pub fn forward(layers: &[Tensor], speech: &Tensor, emotion: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let (t, d) = check(layers, &[Some(speech), emotion])?;
    let dtype = layers[0].dtype();
    let read = layers.iter().map(|x| tensor::read(OP, x)).collect::<Result<Vec<_>>>()?;
    let slices: Vec<&[f32]> = read.iter().map(|x| &**x).collect();
    let weights = [Some(softmax(speech)?), emotion.map(softmax).transpose()?];
    let [speech, emotion] = cpu::forward(&slices, &weights);
    let write = |values: Vec<f32>| tensor::write(OP, values, (t, d), dtype);
    Ok((write(speech)?, weights[1].as_ref().map(|_| write(emotion)).transpose()?))
}

/// The gradients `needs` names, from those of the sums, `grad_speech` and `grad_emotion` [t, d]: `None` counts as zeros.
pub fn backward(
    grad_speech: Option<&Tensor>,
    grad_emotion: Option<&Tensor>,
    layers: &[Tensor],
    speech: &Tensor,
    emotion: Option<&Tensor>,
    needs: Needs,
) -> Result<Grads> {
    let (t, d) = check(layers, &[Some(speech), emotion])?;
    if emotion.is_none() && (grad_emotion.is_some() || needs.emotion) {
        return Err(Error::Value { op: OP, message: "an emotion gradient without emotion weights".into() });
    }
    let mut sides = Vec::new();
    let mut grads = Vec::new();
    for (grad, raw, wanted) in [(grad_speech, Some(speech), needs.speech), (grad_emotion, emotion, needs.emotion)] {
        let (Some(grad), Some(raw)) = (grad, raw) else {
            continue;
        };
        tensor::expect_shape(OP, "grad", grad, &[t, d])?;
        grads.push(tensor::read(OP, grad)?);
        sides.push((softmax(raw)?, wanted));
    }
    let read = layers.iter().map(|x| tensor::read(OP, x)).collect::<Result<Vec<_>>>()?;
    let slices: Vec<&[f32]> = read.iter().map(|x| &**x).collect();
    let sides: Vec<cpu::Side> =
        sides.iter().zip(&grads).map(|((weights, dots), grad)| cpu::Side { grad, weights, dots: *dots }).collect();
    let (d_layers, d_raw) = cpu::backward(&sides, &slices, t * d, needs.layers);

    let mut d_raw = d_raw.into_iter();
    let mut raw_grad = |wanted: bool, has_grad: bool| -> Result<Option<Tensor>> {
        let computed = if has_grad { d_raw.next() } else { None };
        let zeros = || vec![0.0; layers.len()];
        wanted.then(|| tensor::write(OP, computed.unwrap_or_else(zeros), layers.len(), DType::F32)).transpose()
    };
    let speech = raw_grad(needs.speech, grad_speech.is_some())?;
    let emotion = raw_grad(needs.emotion, grad_emotion.is_some())?;
    let write = |values| tensor::write(OP, values, (t, d), layers[0].dtype());
    let layers = if needs.layers { Some(d_layers.into_iter().map(write).collect::<Result<Vec<_>>>()?) } else { None };
    Ok(Grads { layers, speech, emotion })
}

fn check(layers: &[Tensor], weights: &[Option<&Tensor>]) -> Result<(usize, usize)> {
    let Some(first) = layers.first() else {
        return Err(Error::Value { op: OP, message: "no layers to sum".into() });
    };
    let (t, d) = tensor::dims2(OP, "layer", first)?;
    for layer in layers {
        tensor::expect_shape(OP, "layer", layer, &[t, d])?;
    }
    for weights in weights.iter().flatten() {
        tensor::expect_shape(OP, "weights", weights, &[layers.len()])?;
    }
    Ok((t, d))
}

/// The softmax of a few raw scalars, in f64.
fn softmax(raw: &Tensor) -> Result<Vec<f64>> {
    let raw: Vec<f64> = tensor::read(OP, raw)?.iter().map(|&x| f64::from(x)).collect();
    Ok(crate::cross_entropy::reference::softmax(&raw))
}
