//! Sums over layers and over time.

use candle_core::Tensor;
use echat_kernels::{SeqLens, layer_sum as kernel, stack};

use crate::autograd::{Result, Tape, Var};

/// The sum of L `layers` `[t, d]` by the softmax of `weights` `[L]`, and if `seq` is given each layer's mean over each sequence:
/// `[L, n, d]`.
pub fn layer_sum(tape: &Tape, layers: &[Var], weights: &Var, seq: Option<&SeqLens>) -> Result<(Var, Option<Var>)> {
    let tensors: Vec<Tensor> = layers.iter().map(|v| v.tensor().clone()).collect();
    let (sum, means) = kernel::forward(&tensors, weights.tensor(), seq)?;
    let mut inputs: Vec<&Var> = layers.iter().collect();
    inputs.push(weights);
    let (saved, seq, count) = (weights.tensor().clone(), seq.cloned(), layers.len());
    let outputs = [sum].into_iter().chain(means).collect();
    let outputs = tape.op_multi("layer_sum", &inputs, outputs, move |grads, needs| {
        let wanted = kernel::Needs { layers: needs[..count].contains(&true), weights: needs[count] };
        let mut grads = grads.into_iter();
        let (grad, grad_means) = (grads.next().flatten(), grads.next().flatten());
        let found = kernel::backward(grad.as_ref(), grad_means.as_ref(), &tensors, &saved, seq.as_ref(), wanted)?;
        let mut all: Vec<Option<Tensor>> = match found.layers {
            Some(layers) => layers.into_iter().zip(needs).map(|(d, &need)| need.then_some(d)).collect(),
            None => vec![None; count],
        };
        all.push(found.weights);
        Ok(all)
    });
    let mut outputs = outputs.into_iter();
    match outputs.next() {
        Some(sum) => Ok((sum, outputs.next())),
        None => Err(crate::autograd::Error::Model("layer_sum gave no output".into())),
    }
}

/// The sum of `means` `[L, n, d]` over the layers by the softmax of `weights` `[L]`: `[n, d]`.
pub fn mean_sum(tape: &Tape, means: &Var, weights: &Var) -> Result<Var> {
    let (layers, _, _) = means.tensor().dims3()?;
    let slices = move |tensor: &Tensor| (0..layers).map(|l| tensor.get(l)).collect::<candle_core::Result<Vec<_>>>();
    let (sum, _) = kernel::forward(&slices(means.tensor())?, weights.tensor(), None)?;
    let (saved, saved_weights) = (means.tensor().clone(), weights.tensor().clone());
    Ok(tape.op("mean_sum", &[means, weights], sum, move |grad, needs| {
        let wanted = kernel::Needs { layers: needs[0], weights: needs[1] };
        let found = kernel::backward(Some(&grad), None, &slices(&saved)?, &saved_weights, None, wanted)?;
        let d_means = found.layers.map(|layers| Tensor::stack(&layers, 0)).transpose()?;
        Ok(vec![d_means, found.weights])
    }))
}

/// `k` consecutive frames side by side, each sequence's tail padded with zeros: `[t, d]` → `[t', k·d]`.
pub fn stack_frames(tape: &Tape, x: &Var, seq: &SeqLens, k: usize) -> Result<(Var, SeqLens)> {
    let (y, out_seq) = stack::forward(x.tensor(), seq, k)?;
    let seq = seq.clone();
    let y = tape.op("stack", &[x], y, move |grad, _| Ok(vec![Some(stack::backward(&grad, &seq, k)?)]));
    Ok((y, out_seq))
}
