//! Dropout whose masks depend on the sample, never on what it is packed with.

use echat_kernels::dropout as kernel;
use echat_kernels::{SeqLens, rng};

use super::LayerNorm;
use crate::autograd::{Result, Tape, Var};

/// Packed rows: where each sequence lies, and each sequence's sample key.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Where each sequence lies.
    pub seq: SeqLens,
    /// A stable key per sequence (the utterance's identity in the run), for randomness.
    pub samples: std::sync::Arc<[u64]>,
}

impl Packed {
    /// The same samples at other lengths (after a convolution, after assembly).
    pub fn with_seq(&self, seq: SeqLens) -> Self {
        Self { seq, samples: self.samples.clone() }
    }

    /// Sequences without identity: evaluation, where nothing is drawn.
    pub fn anonymous(seq: SeqLens) -> Self {
        let samples = vec![0; seq.count()].into();
        Self { seq, samples }
    }
}

/// A site where elements are dropped with probability `p` in training; `name` keys its draws.
#[derive(Clone, Debug)]
pub struct Dropout {
    p: f32,
    site: u64,
}

impl Dropout {
    /// Dropout at the site `name`.
    pub fn new(p: f64, name: &str) -> Self {
        Self { p: p as f32, site: rng::site(name) }
    }

    /// The probability and one stream per sequence; `None` when nothing is dropped (evaluation, p = 0).
    pub(super) fn draw(&self, tape: &Tape, packed: &Packed) -> Option<(f32, Vec<u64>)> {
        let step = tape.rng().filter(|_| self.p > 0.0)?;
        Some((self.p, step.streams(self.site, &packed.samples)))
    }

    /// x `[t, d]` with elements dropped and the rest scaled by `1/(1-p)`.
    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<Var> {
        let Some((p, streams)) = self.draw(tape, packed) else { return Ok(x.clone()) };
        let y = kernel::apply(x.tensor(), p, &packed.seq, &streams)?;
        let seq = packed.seq.clone();
        Ok(tape.op("dropout", &[x], y, move |grad, _| Ok(vec![Some(kernel::apply(&grad, p, &seq, &streams)?)])))
    }

    /// `residual + dropout(x)`, and its norm.
    pub fn add_norm(
        &self,
        tape: &Tape,
        residual: &Var,
        x: &Var,
        packed: &Packed,
        norm: &LayerNorm,
    ) -> Result<(Var, Var)> {
        if self.p == 0.0 || tape.rng().is_none() {
            return norm.add(tape, residual, x);
        }
        let sum = self.add(tape, residual, x, packed)?;
        let normed = norm.forward(tape, &sum)?;
        Ok((sum, normed))
    }

    /// `residual + dropout(x)`.
    pub fn add(&self, tape: &Tape, residual: &Var, x: &Var, packed: &Packed) -> Result<Var> {
        let Some((p, streams)) = self.draw(tape, packed) else { return super::add(tape, residual, x) };
        let y = kernel::add_dropout(residual.tensor(), x.tensor(), p, &packed.seq, &streams)?;
        let seq = packed.seq.clone();
        Ok(tape.op("add_dropout", &[residual, x], y, move |grad, needs| {
            let dx = needs[1].then(|| kernel::apply(&grad, p, &seq, &streams)).transpose()?;
            Ok(vec![needs[0].then_some(grad), dx])
        }))
    }
}
