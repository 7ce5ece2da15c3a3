//! The whole model: encoder → two layer sums → connector and emotion branch → decoder, and the loss (paper, §3, eq. 1).

mod assemble;
mod build;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use echat_kernels::upload::to_device;

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
    /// What is said.
    pub speech: Speech,
    /// Where each utterance lies in the waveforms or features, and its sample key.
    pub packed: Packed,
    /// Context tokens per utterance (text-only training).
    pub contexts: Vec<Vec<u32>>,
    /// Target tokens with EOS, per utterance.
    pub targets: Vec<Vec<u32>>,
    /// Emotion class per utterance; empty when the model has no emotion branch.
    pub emotions: Vec<u32>,
}

/// Speech as it comes to the model.
#[derive(Clone, Debug)]
pub enum Speech {
    /// None: the decoder is trained from text.
    None,
    /// Waveforms `[samples, 1]`.
    Waves(Tensor),
    /// What a frozen encoder made of them.
    Features(Features),
}

/// All that is wanted of an encoder: with it frozen, these can be kept.
#[derive(Clone, Debug)]
pub struct Features {
    /// The speech layer sum, `[t, d]`.
    pub speech: Tensor,
    /// Every summed layer's mean over each utterance, `[L, n, d]`; only where there is an emotion branch.
    pub means: Option<Tensor>,
}

/// The same on a tape.
struct Heard {
    speech: Var,
    means: Option<Var>,
    packed: Packed,
}

/// What the connector and the emotion branch made of a batch of speech.
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
    /// Of the auxiliary task, over utterances.
    pub emotion: Option<CrossEntropy>,
    /// Positions the decoder read: speech, prompt and target.
    pub positions: usize,
}

impl SpeechPath {
    /// Whether nothing of the encoder trains, its layer sum included. A frozen encoder is an extractor of features: it drops and masks nothing, so what
    /// it makes of an utterance is always the same.
    pub fn is_frozen(&self) -> bool {
        self.speech_layer_weights.slot().is_none()
    }

    /// Where it computes.
    fn device(&self) -> Device {
        self.speech_layer_weights.tensor().device().clone()
    }

    /// wave `[samples, 1]` → what a frozen encoder makes of it, and where each utterance lies in it.
    pub fn features(&self, wave: &Tensor, packed: &Packed) -> Result<(Features, Packed)> {
        let Heard { speech, means, packed } = self.hear(&Tape::inference(), wave, packed)?;
        Ok((Features { speech: speech.tensor().clone(), means: means.map(|m| m.tensor().clone()) }, packed))
    }

    /// What the decoder reads of `speech`, whose utterances lie as `packed` says; `None` if there is none.
    pub fn encode(&self, tape: &Tape, speech: &Speech, packed: &Packed) -> Result<Option<Encoded>> {
        let heard = match speech {
            Speech::None => return Ok(None),
            Speech::Waves(wave) if self.is_frozen() => {
                let apart = Tape::inference();
                let heard = self.hear(&apart, wave, packed)?;
                tape.count_flops(apart.flops(), []);
                heard
            }
            Speech::Waves(wave) => self.hear(tape, wave, packed)?,
            Speech::Features(Features { speech, means }) => {
                let here = |t: &Tensor| Ok::<_, Error>(tape.constant(to_device(t, &self.device())?));
                Heard { speech: here(speech)?, means: means.as_ref().map(here).transpose()?, packed: packed.clone() }
            }
        };
        let (speech, packed) = self.connector.forward(tape, &heard.speech, &heard.packed)?;
        let emotion = match (&self.emotion, &heard.means) {
            (Some((weights, branch)), Some(means)) => {
                Some(branch.forward(tape, &nn::mean_sum(tape, means, &tape.param(weights))?)?)
            }
            (Some(_), None) => return Err(Error::Model("features without the layers' means".into())),
            (None, _) => None,
        };
        Ok(Some(Encoded { speech, packed, emotion }))
    }

    fn hear(&self, tape: &Tape, wave: &Tensor, packed: &Packed) -> Result<Heard> {
        let wave = to_device(wave, &self.device())?;
        let encoded = self.encoder.forward(tape, &wave, packed)?;
        let weights = tape.param(&self.speech_layer_weights);
        let seq = self.emotion.as_ref().map(|_| &encoded.packed.seq);
        let (speech, means) = nn::layer_sum(tape, &encoded.layers, &weights, seq)?;
        Ok(Heard { speech, means, packed: encoded.packed })
    }
}

impl EChat {
    /// What the decoder reads of `batch`'s speech.
    pub fn encode(&self, tape: &Tape, batch: &Batch) -> Result<Option<Encoded>> {
        let encoded = self.speech.as_ref().map_or(Ok(None), |path| path.encode(tape, &batch.speech, &batch.packed))?;
        match (&encoded, &self.speech, &batch.speech) {
            (Some(_), ..) | (None, None, Speech::None) => Ok(encoded),
            _ => Err(Error::Model("speech and an encoder go together: one is missing".into())),
        }
    }

    /// The summed losses of `batch`; nothing is divided yet.
    pub fn losses(&self, tape: &Tape, batch: &Batch, layout: &Layout) -> Result<Losses> {
        let encoded = self.encode(tape, batch)?;
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
        let emotion = emotion.map(|e| nn::cross_entropy(tape, &e.logits, &batch.emotions)).transpose()?;
        Ok(Losses { decoder, emotion, positions: hidden.dims()[0] })
    }
}

/// The index of the greatest value; the first among equals.
pub fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}
