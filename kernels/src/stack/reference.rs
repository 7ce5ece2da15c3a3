//! Frame stacking, defined.

use crate::SeqLens;

/// `x [t, d]` to `[t', k·d]`.
pub fn forward(x: &[f64], seq: &SeqLens, d: usize, k: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for rows in seq.ranges() {
        for first in rows.clone().step_by(k) {
            for row in first..first + k {
                y.extend((0..d).map(|j| if row < rows.end { x[row * d + j] } else { 0.0 }));
            }
        }
    }
    y
}

/// `grad [t', k·d]` to `[t, d]`.
pub fn backward(grad: &[f64], seq: &SeqLens, d: usize, k: usize) -> Vec<f64> {
    let mut dx = Vec::new();
    let mut start = 0;
    for len in seq.lens() {
        dx.extend_from_slice(&grad[start * d..(start + len) * d]);
        start += len.div_ceil(k) * k;
    }
    dx
}
