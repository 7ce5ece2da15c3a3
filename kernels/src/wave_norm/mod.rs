//! From recorded samples to a network's input: `i16 / 32768`, and per utterance zero mean and unit variance, as
//! transformers' `Wav2Vec2FeatureExtractor` with `do_normalize` has it.

pub mod cpu;
pub mod reference;

use crate::parallel::for_sequences;
use crate::{Error, Result, SeqLens};

const OP: &str = "wave_norm";

/// One utterance: `out[i] = x[i] / 32768`, then, if `normalize`, `(out - mean) / √(var + 1e-7)` with the biased variance.
///
/// Errors: `out` of another length than `samples`.
pub fn forward(samples: &[i16], out: &mut [f32], normalize: bool) -> Result<()> {
    check("out", out.len(), samples.len())?;
    cpu::forward(samples, out, normalize);
    Ok(())
}

/// [`forward`] behind what `out` holds, so that nothing is written twice.
pub fn append(samples: &[i16], out: &mut Vec<f32>, normalize: bool) {
    cpu::append(samples, out, normalize);
}

/// [`forward`] on each utterance of a packed batch.
///
/// Errors: `samples` or `out` of another length than `seq`'s total.
pub fn forward_packed(samples: &[i16], seq: &SeqLens, out: &mut [f32], normalize: bool) -> Result<()> {
    check("samples", samples.len(), seq.total())?;
    check("out", out.len(), seq.total())?;
    for_sequences(out, seq, 1, |i, out| cpu::forward(&samples[seq.range(i)], out, normalize));
    Ok(())
}

fn check(what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Value { op: OP, message: format!("{what} holds {got} samples, expected {expected}") })
}
