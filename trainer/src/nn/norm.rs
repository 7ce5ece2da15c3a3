//! Normalisation layers.

use echat_kernels::{SeqLens, channel_norm, layer_norm, rms_norm};

use crate::autograd::{Param, Result, Tape, Var};

/// Root-mean-square norm over the last dimension, weight `[d]`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[d]`.
    pub weight: Param,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// x `[t, d]` → `[t, d]`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let w = tape.param(&self.weight);
        let (y, rstd) = rms_norm::forward(x.tensor(), w.tensor(), self.eps)?;
        let saved = (x.tensor().clone(), w.tensor().clone(), rstd);
        Ok(tape.op("rms_norm", &[x, &w], y, move |grad, needs| {
            let (dx, dw) = rms_norm::backward(&grad, &saved.0, &saved.1, &saved.2, needs[1])?;
            Ok(vec![needs[0].then_some(dx), dw])
        }))
    }
}

/// Layer norm over the last dimension, weight and bias `[d]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[d]`.
    pub weight: Param,
    /// `[d]`.
    pub bias: Param,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// x `[t, d]` → `[t, d]`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (w, b) = (tape.param(&self.weight), tape.param(&self.bias));
        let (y, stats) = layer_norm::forward(x.tensor(), w.tensor(), b.tensor(), self.eps)?;
        let saved = (x.tensor().clone(), w.tensor().clone(), stats);
        Ok(tape.op("layer_norm", &[x, &w, &b], y, move |grad, needs| {
            let (dx, dwb) = layer_norm::backward(&grad, &saved.0, &saved.1, &saved.2, needs[1] || needs[2])?;
            let (dw, db) = dwb.unzip();
            Ok(vec![needs[0].then_some(dx), dw.filter(|_| needs[1]), db.filter(|_| needs[2])])
        }))
    }
}

/// Each channel normalised over time within its utterance (`GroupNorm` with as many groups as channels).
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    /// `[c]`.
    pub weight: Param,
    /// `[c]`.
    pub bias: Param,
    /// Added to the variance.
    pub eps: f64,
}

impl ChannelNorm {
    /// x `[t, c]` packed by `seq` → `[t, c]`.
    pub fn forward(&self, tape: &Tape, x: &Var, seq: &SeqLens) -> Result<Var> {
        let (w, b) = (tape.param(&self.weight), tape.param(&self.bias));
        let (y, stats) = channel_norm::forward(x.tensor(), w.tensor(), b.tensor(), seq, self.eps)?;
        let saved = (x.tensor().clone(), w.tensor().clone(), stats, seq.clone());
        Ok(tape.op("channel_norm", &[x, &w, &b], y, move |grad, needs| {
            let (x, w, stats, seq) = &saved;
            let (dx, dwb) = channel_norm::backward(&grad, x, w, stats, seq, needs[1] || needs[2])?;
            let (dw, db) = dwb.unzip();
            Ok(vec![needs[0].then_some(dx), dw.filter(|_| needs[1]), db.filter(|_| needs[2])])
        }))
    }
}
