//! The layer sum by kernels.

use candle_core::{DType, Tensor};

use super::{Grads, Needs, OP};
use crate::cuda::{CHUNK_THREADS, Call, alike, chunks, column_sum, empty};
use crate::{Result, SeqLens, mean_pool};

pub(super) fn forward(layers: &[Tensor], weights: &Tensor, seq: Option<&SeqLens>) -> Result<(Tensor, Option<Tensor>)> {
    let (first, weights) = (&layers[0], weights.to_dtype(DType::F32)?);
    let ((rows, d), dtype, sequences) = (first.dims2()?, first.dtype(), seq.map_or(0, SeqLens::count));
    let grid = chunks(rows, sequences, d, dtype);
    let sum = empty((rows, d), dtype, first)?;
    let offsets = seq.map(|seq| seq.device(first)).transpose()?;
    let partial = seq.map(|_| empty((layers.len() * grid[0], d), DType::F32, first)).transpose()?;
    let name = format!("layer_sum_forward_{}", alike(OP, &layers.iter().collect::<Vec<_>>())?);
    let call = Call::new(OP, OP, &name).tensors(layers, dtype).tensor(&weights).maybe(offsets.as_ref(), DType::U32);
    let call = call.tensor(&sum).maybe(partial.as_ref(), DType::F32).u32(layers.len()).u32(sequences).u32(rows).u32(d);
    call.launch(if rows == 0 { [0; 3] } else { grid }, CHUNK_THREADS, 0)?;
    let means = seq.zip(partial).map(|(seq, partial)| mean_pool::cuda::finish(OP, &partial, layers.len(), seq, dtype));
    Ok((sum, means.transpose()?))
}

pub(super) fn backward(
    grad: Option<&Tensor>,
    means: Option<(&Tensor, &SeqLens)>,
    layers: &[Tensor],
    weights: &Tensor,
    needs: Needs,
) -> Result<Grads> {
    let (first, count, weights) = (&layers[0], layers.len(), weights.to_dtype(DType::F32)?);
    let ((rows, d), dtype, sequences) = (first.dims2()?, first.dtype(), means.map_or(0, |(_, seq)| seq.count()));
    let grid = chunks(rows, 0, d, dtype);
    let some = if needs.layers { count } else { 0 };
    let d_layers = (0..some).map(|_| empty((rows, d), dtype, first)).collect::<Result<Vec<_>>>()?;
    // Only through the sum does anything depend on the weights.
    let dots =
        (needs.weights && grad.is_some()).then(|| empty((grid[0] * grid[1], count), DType::F32, first)).transpose()?;
    let offsets = means.map(|(_, seq)| seq.device(first)).transpose()?;
    let grad_means = means.map(|(grad, _)| grad);
    let alike = alike(OP, &layers.iter().chain(grad).chain(grad_means).collect::<Vec<_>>())?;
    let name = format!("layer_sum_backward_{alike}");
    let call = Call::new(OP, OP, &name).tensors(layers, dtype).tensors(&d_layers, dtype).tensor(&weights);
    let call = call.maybe(offsets.as_ref(), DType::U32).maybe(grad, dtype).maybe(grad_means, dtype);
    let call = call.maybe(dots.as_ref(), DType::F32).u32(count).u32(sequences).u32(rows).u32(d);
    let nothing = !needs.layers && dots.is_none();
    call.launch(if nothing { [0; 3] } else { grid }, CHUNK_THREADS, 0)?;
    let weights = match (needs.weights, dots) {
        (false, _) => None,
        (true, None) => Some(Tensor::zeros(count, DType::F32, first.device())?),
        (true, Some(dots)) => Some(through_softmax(&weights, &column_sum(OP, &dots)?)?),
    };
    Ok(Grads { layers: needs.layers.then_some(d_layers), weights })
}

/// The gradient of the raw `weights` from that of their softmax.
fn through_softmax(weights: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let count = weights.elem_count();
    let raw = empty(count, DType::F32, weights)?;
    let call = Call::new(OP, OP, "layer_sum_through_softmax").tensor(weights).tensor(grad).tensor(&raw).u32(count);
    call.launch([1, 1, 1], 32, 0)?;
    Ok(raw)
}
