//! The definition, in f64.

use crate::SeqLens;

/// The mean row of each sequence of `x` [t, d].
pub fn forward(x: &[f64], seq: &SeqLens, d: usize) -> Vec<f64> {
    let mut means = vec![0.0; seq.count() * d];
    for (i, rows) in seq.ranges().enumerate() {
        for t in rows.clone() {
            for c in 0..d {
                means[i * d + c] += x[t * d + c] / rows.len() as f64;
            }
        }
    }
    means
}

/// The gradient of `x` from that of the means.
pub fn backward(grad: &[f64], seq: &SeqLens, d: usize) -> Vec<f64> {
    let mut dx = vec![0.0; seq.total() * d];
    for (i, rows) in seq.ranges().enumerate() {
        for t in rows.clone() {
            for c in 0..d {
                dx[t * d + c] = grad[i * d + c] / rows.len() as f64;
            }
        }
    }
    dx
}
