//! Normalisation layers.

use candle_core::Tensor;
use echat_kernels::{SeqLens, channel_norm, layer_norm, rms_norm};

use crate::autograd::{Error, Param, Result, Tape, Var};

/// The gradients of two outputs.
fn both(grads: Vec<Option<Tensor>>) -> (Option<Tensor>, Option<Tensor>) {
    let mut grads = grads.into_iter();
    (grads.next().flatten(), grads.next().flatten())
}

/// The only two of `outputs`.
fn pair(outputs: Vec<Var>) -> Result<(Var, Var)> {
    match <[Var; 2]>::try_from(outputs) {
        Ok([first, second]) => Ok((first, second)),
        Err(_) => Err(Error::Model("two outputs were recorded as another number".into())),
    }
}

/// Root-mean-square norm over the last dimension, weight `[d]`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[d]`.
    pub weight: Param,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// A residual stream `x` and what a branch adds to it, both `[t, d]`: their sum, and its norm.
    pub fn add(&self, tape: &Tape, x: &Var, branch: &Var) -> Result<(Var, Var)> {
        let w = tape.param(&self.weight);
        let (sum, y, rstd) = rms_norm::forward_added(x.tensor(), branch.tensor(), w.tensor(), self.eps)?;
        let saved = (sum.clone(), w.tensor().clone(), rstd);
        let outputs = tape.op_multi("add_rms_norm", &[x, branch, &w], vec![sum, y], move |grads, needs| {
            let (carried, grad) = both(grads);
            let Some(grad) = grad else { return Ok(vec![carried.clone(), carried, None]) };
            let (dx, dw) = rms_norm::backward_added(&grad, carried.as_ref(), &saved.0, &saved.1, &saved.2, needs[2])?;
            Ok(vec![needs[0].then(|| dx.clone()), needs[1].then_some(dx), dw])
        });
        pair(outputs)
    }

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
    /// A residual stream `x` and what a branch adds to it, both `[t, d]`: their sum, and its norm.
    pub fn add(&self, tape: &Tape, x: &Var, branch: &Var) -> Result<(Var, Var)> {
        let (w, b) = (tape.param(&self.weight), tape.param(&self.bias));
        let (sum, y, stats) = layer_norm::forward_added(x.tensor(), branch.tensor(), w.tensor(), b.tensor(), self.eps)?;
        let saved = (sum.clone(), w.tensor().clone(), stats);
        let outputs = tape.op_multi("add_layer_norm", &[x, branch, &w, &b], vec![sum, y], move |grads, needs| {
            let (carried, grad) = both(grads);
            let Some(grad) = grad else { return Ok(vec![carried.clone(), carried, None, None]) };
            let weights = needs[2] || needs[3];
            let (dx, dwb) = layer_norm::backward_added(&grad, carried.as_ref(), &saved.0, &saved.1, &saved.2, weights)?;
            let (dw, db) = dwb.unzip();
            let (dw, db) = (dw.filter(|_| needs[2]), db.filter(|_| needs[3]));
            Ok(vec![needs[0].then(|| dx.clone()), needs[1].then_some(dx), dw, db])
        });
        pair(outputs)
    }

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

impl LayerNorm {
    /// The gelu of [`LayerNorm::forward`], of which only `x` is kept for backward.
    pub fn gelu(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (w, b) = (tape.param(&self.weight), tape.param(&self.bias));
        let (y, stats) = layer_norm::forward_gelu(x.tensor(), w.tensor(), b.tensor(), self.eps)?;
        let saved = (x.tensor().clone(), w.tensor().clone(), b.tensor().clone(), stats);
        Ok(tape.op("layer_norm_gelu", &[x, &w, &b], y, move |grad, needs| {
            let (x, w, b, stats) = &saved;
            let (dx, dwb) = layer_norm::backward_gelu(&grad, x, w, b, stats, needs[1] || needs[2])?;
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
