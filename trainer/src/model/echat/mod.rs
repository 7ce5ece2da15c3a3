//! The whole model: encoder → two layer sums → connector and emotion branch → decoder, and the loss (paper, §3, eq. 1).

mod assemble;
mod build;

use std::sync::Arc;

use candle_core::Tensor;

pub use assemble::{Assembled, Content, assemble};
pub use build::{BuildError, Built, ModelConfig, Precision, Sections, sizes};

use super::connector::Connector;
use super::decoder::Decoder;
use super::emotion::{EmotionBranch, EmotionOutput};
use super::hubert::Hubert;
use crate::autograd::{Error, Param, Result, Tape, Var};
use crate::data::text::Layout;
use crate::nn::{self, CrossEntropy, LinearLoss, Packed};

/// What turns speech into decoder embeddings.
pub struct SpeechPath {
    /// The encoder.
    pub encoder: Hubert,
    /// Raw weights of the speech layer sum, `[L]`.
    pub speech_layer_weights: Param,
    /// The connector.
    pub connector: Connector,
    /// The emotion branch with the raw weights of its layer sum, `[L]`.
    pub emotion: Option<(Param, EmotionBranch)>,
}

/// The model. Without a speech path it is a language model to be trained from text.
pub struct EChat {
    /// From waveforms to embeddings.
    pub speech: Option<SpeechPath>,
    /// The language model.
    pub decoder: Decoder,
}

/// A packed batch as the model takes it.
pub struct Batch {
    /// Names of the utterances, for errors; may be empty.
    pub ids: Vec<String>,
    /// Waveforms `[samples, 1]`, packed; `None` in text-only training.
    pub wave: Option<Tensor>,
    /// Where each utterance lies in `wave`, and its sample key.
    pub packed: Packed,
    /// Context tokens per utterance (text-only training).
    pub contexts: Vec<Vec<u32>>,
    /// Target tokens with EOS, per utterance.
    pub targets: Vec<Vec<u32>>,
    /// Emotion class per utterance; empty when the model has no emotion branch.
    pub emotions: Vec<u32>,
}

/// What the connector and the emotion branch made of a batch of waveforms.
pub struct Encoded {
    /// `[t, d_llm]`.
    pub speech: Var,
    /// Where each utterance lies in `speech`.
    pub packed: Packed,
    /// Per utterance.
    pub emotion: Option<EmotionOutput>,
}

/// The summed losses of one micro-batch.
pub struct Losses {
    /// Over target tokens.
    pub decoder: LinearLoss,
    /// Over utterances.
    pub emotion: Option<EmotionLoss>,
    /// Positions the decoder read: speech, prompt and target.
    pub positions: usize,
}

/// The auxiliary task.
pub struct EmotionLoss {
    /// Sum over utterances.
    pub cross_entropy: CrossEntropy,
    /// Utterances whose class had the highest probability.
    pub correct: u64,
}

impl SpeechPath {
    /// wave `[samples, 1]` → what the decoder reads.
    pub fn encode(&self, tape: &Tape, wave: &Tensor, packed: &Packed) -> Result<Encoded> {
        let encoded = self.encoder.forward(tape, wave, packed)?;
        let speech_weights = tape.param(&self.speech_layer_weights);
        let emotion_weights = self.emotion.as_ref().map(|(weights, _)| tape.param(weights));
        let (speech, for_emotion) = nn::layer_sum(tape, &encoded.layers, &speech_weights, emotion_weights.as_ref())?;
        let (speech, speech_packed) = self.connector.forward(tape, &speech, &encoded.packed)?;
        let emotion = match (&self.emotion, for_emotion) {
            (Some((_, branch)), Some(sum)) => {
                let pooled = nn::mean_pool(tape, &sum, &encoded.packed.seq)?;
                Some(branch.forward(tape, &pooled)?)
            }
            _ => None,
        };
        Ok(Encoded { speech, packed: speech_packed, emotion })
    }
}

impl EChat {
    /// The summed losses of `batch`; nothing is divided yet.
    pub fn losses(&self, tape: &Tape, batch: &Batch, layout: &Layout) -> Result<Losses> {
        let encoded = match (&self.speech, &batch.wave) {
            (Some(path), Some(wave)) => Some(path.encode(tape, wave, &batch.packed)?),
            (None, None) => None,
            _ => return Err(Error::Model("waveforms and an encoder go together: one is missing".into())),
        };
        let content = match &encoded {
            Some(e) => Content::Speech(&e.speech, &e.packed.seq),
            None => Content::Tokens(&batch.contexts),
        };
        let emotion = encoded.as_ref().and_then(|e| e.emotion.as_ref());
        let token = emotion.map(|e| &e.token);
        let samples: &Arc<[u64]> = &batch.packed.samples;
        let input = assemble(tape, &self.decoder, layout, &content, token, Some(&batch.targets), samples, &batch.ids)?;
        let hidden = self.decoder.forward(tape, &input.x, &input.packed)?;
        let head = self.decoder.head(tape)?;
        let decoder = nn::linear_cross_entropy(tape, &hidden, &head, &input.rows, &input.labels)?;
        let emotion = emotion.map(|e| emotion_loss(tape, &e.logits, &batch.emotions)).transpose()?;
        Ok(Losses { decoder, emotion, positions: hidden.dims()[0] })
    }
}

fn emotion_loss(tape: &Tape, logits: &Var, labels: &[u32]) -> Result<EmotionLoss> {
    let cross_entropy = nn::cross_entropy(tape, logits, labels)?;
    let rows: Vec<Vec<f32>> = cross_entropy.probabilities.to_vec2()?;
    let correct = rows.iter().zip(labels).filter(|(row, label)| argmax(row) == **label as usize).count() as u64;
    Ok(EmotionLoss { cross_entropy, correct })
}

/// The index of the greatest value; the first among equals.
pub fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}
