//! Frame stacking on the CPU. Rows are contiguous, so stacking a sequence is copying it as it lies and leaving zeros
//! behind it: one thread does that as fast as the memory goes.

use crate::SeqLens;

/// `[t', k·d]`.
pub fn forward(x: &[f32], seq: &SeqLens, stacked: &SeqLens, d: usize, k: usize) -> Vec<f32> {
    let mut y = vec![0.0; stacked.total() * k * d];
    for (from, to) in seq.ranges().zip(stacked.ranges()) {
        y[to.start * k * d..][..from.len() * d].copy_from_slice(&x[from.start * d..from.end * d]);
    }
    y
}

/// `[t, d]`.
pub fn backward(grad: &[f32], seq: &SeqLens, stacked: &SeqLens, d: usize, k: usize) -> Vec<f32> {
    let mut dx = Vec::with_capacity(seq.total() * d);
    for (to, from) in seq.ranges().zip(stacked.ranges()) {
        dx.extend_from_slice(&grad[from.start * k * d..][..to.len() * d]);
    }
    dx
}
