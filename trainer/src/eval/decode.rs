//! What the model says to a batch of utterances.

use echat_kernels::tensor;

use crate::autograd::{Result, Tape, Var};
use crate::data::text::Layout;
use crate::model::echat::{Assembled, Batch, Content, EChat, assemble};
use crate::model::generate::{Sampling, generate};

/// The answer to one utterance.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Tokens, without EOS.
    pub tokens: Vec<u32>,
    /// Probabilities of the five emotions, if the model has the branch.
    pub emotion: Option<Vec<f32>>,
}

/// A batch read by encoder and connector, ready for the decoder.
pub struct Prompted {
    /// The decoder's input up to where the answer begins.
    pub input: Assembled,
    /// Softmax of the emotion logits, per utterance.
    pub emotions: Option<Vec<Vec<f32>>>,
}

/// Encodes `batch` (its targets are not read) and assembles the decoder's input.
pub fn prompt(model: &EChat, batch: &Batch, layout: &Layout) -> Result<Prompted> {
    let tape = Tape::inference();
    let encoded = model.encode(&tape, batch)?;
    let content = match &encoded {
        Some(e) => Content::Speech(&e.speech, &e.packed.seq),
        None => Content::Tokens(&batch.contexts),
    };
    let emotion = encoded.as_ref().and_then(|e| e.emotion.as_ref());
    let emotions = emotion.map(|e| probabilities(&e.logits)).transpose()?;
    let token = emotion.map(|e| &e.token);
    let input = assemble(&tape, &model.decoder, layout, &content, token, None, &batch.packed.samples, &batch.ids)?;
    Ok(Prompted { input, emotions })
}

/// The answers to `batch`.
pub fn answer(
    model: &EChat,
    batch: &Batch,
    layout: &Layout,
    sampling: &Sampling,
    stops: &[u32],
) -> Result<Vec<Answer>> {
    let prompted = prompt(model, batch, layout)?;
    let tokens = generate(&model.decoder, &prompted.input, sampling, stops, &mut |_, _| {})?;
    let mut emotions = prompted.emotions.map(Vec::into_iter);
    Ok(tokens
        .into_iter()
        .map(|tokens| Answer { tokens, emotion: emotions.as_mut().and_then(Iterator::next) })
        .collect())
}

fn probabilities(logits: &Var) -> Result<Vec<Vec<f32>>> {
    let width = logits.dims()[1];
    let values = tensor::to_host(logits.tensor())?;
    Ok(values
        .chunks_exact(width)
        .map(|row| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exps: Vec<f32> = row.iter().map(|v| (v - top).exp()).collect();
            let sum: f32 = exps.iter().sum();
            exps.into_iter().map(|e| e / sum).collect()
        })
        .collect())
}
