//! Sums over layers and over time.

use candle_core::Tensor;
use echat_kernels::{SeqLens, layer_sum as kernel, mean_pool as pool, stack};

use crate::autograd::{Result, Tape, Var};

/// The two learned layer sums in one read of the layers (L of `[t, d]`): weights are softmaxes of `speech` and `emotion` `[L]`.
pub fn layer_sum(tape: &Tape, layers: &[Var], speech: &Var, emotion: Option<&Var>) -> Result<(Var, Option<Var>)> {
    let tensors: Vec<Tensor> = layers.iter().map(|v| v.tensor().clone()).collect();
    let (s, e) = kernel::forward(&tensors, speech.tensor(), emotion.map(Var::tensor))?;
    let mut inputs: Vec<&Var> = layers.iter().collect();
    inputs.push(speech);
    inputs.extend(emotion);
    let (saved_s, saved_e) = (speech.tensor().clone(), emotion.map(|v| v.tensor().clone()));
    let count = layers.len();
    let mut outputs = vec![s];
    outputs.extend(e);
    let outputs = tape.op_multi("layer_sum", &inputs, outputs, move |grads, needs| {
        let wanted = kernel::Needs {
            layers: needs[..count].contains(&true),
            speech: needs[count],
            emotion: needs.get(count + 1).copied().unwrap_or(false),
        };
        let mut grads = grads.into_iter();
        let (gs, ge) = (grads.next().flatten(), grads.next().flatten());
        let found = kernel::backward(gs.as_ref(), ge.as_ref(), &tensors, &saved_s, saved_e.as_ref(), wanted)?;
        let mut all: Vec<Option<Tensor>> = match found.layers {
            Some(layers) => layers.into_iter().zip(needs).map(|(d, &need)| need.then_some(d)).collect(),
            None => vec![None; count],
        };
        all.push(found.speech);
        if needs.len() > count + 1 {
            all.push(found.emotion);
        }
        Ok(all)
    });
    let mut outputs = outputs.into_iter();
    match outputs.next() {
        Some(speech) => Ok((speech, outputs.next())),
        None => Err(crate::autograd::Error::Model("layer_sum gave no output".into())),
    }
}

/// Mean over each sequence's rows: x `[t, d]` → `[n, d]`.
pub fn mean_pool(tape: &Tape, x: &Var, seq: &SeqLens) -> Result<Var> {
    let y = pool::forward(x.tensor(), seq)?;
    let seq = seq.clone();
    Ok(tape.op("mean_pool", &[x], y, move |grad, _| Ok(vec![Some(pool::backward(&grad, &seq)?)])))
}

/// `k` consecutive frames side by side, each sequence's tail padded with zeros: `[t, d]` → `[t', k·d]`.
pub fn stack_frames(tape: &Tape, x: &Var, seq: &SeqLens, k: usize) -> Result<(Var, SeqLens)> {
    let (y, out_seq) = stack::forward(x.tensor(), seq, k)?;
    let seq = seq.clone();
    let y = tape.op("stack", &[x], y, move |grad, _| Ok(vec![Some(stack::backward(&grad, &seq, k)?)]));
    Ok((y, out_seq))
}
