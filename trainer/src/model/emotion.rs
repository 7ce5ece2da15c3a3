//! The emotion branch (DESIGN: stage 2): from the time-mean of the emotion layer sum to the emotion token and the class logits.

use crate::autograd::{Result, Tape, Var};
use crate::data::emotion::Emotion;
use crate::model::weights::{self, Loader};
use crate::nn::{Activation, Linear};

/// `dense` → GELU → h; `token`(h) joins the decoder's input, `classifier`(h) are the logits of the auxiliary task.
pub struct EmotionBranch {
    dense: Linear,
    token: Linear,
    classifier: Linear,
}

/// What the branch says about each utterance.
pub struct EmotionOutput {
    /// `[n, d_llm]`.
    pub token: Var,
    /// `[n, 5]`.
    pub logits: Var,
}

impl EmotionBranch {
    /// For pooled features of width `d` and decoder embeddings of width `d_llm`.
    pub fn build(loader: &Loader, d: usize, d_llm: usize) -> weights::Result<Self> {
        Ok(Self {
            dense: loader.dense("dense", d, d)?,
            token: loader.dense("token", d, d_llm)?,
            classifier: loader.dense("classifier", d, Emotion::ALL.len())?,
        })
    }

    /// pooled `[n, d]`.
    pub fn forward(&self, tape: &Tape, pooled: &Var) -> Result<EmotionOutput> {
        let h = self.dense.forward_activated(tape, pooled, Activation::Gelu)?;
        Ok(EmotionOutput { token: self.token.forward(tape, &h)?, logits: self.classifier.forward(tape, &h)? })
    }
}
