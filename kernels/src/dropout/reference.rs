//! Dropout, defined.

use crate::{SeqLens, rng};

/// `x [t, d]` masked and scaled.
pub fn apply(x: &[f64], p: f32, seq: &SeqLens, streams: &[u64]) -> Vec<f64> {
    let d = x.len() / seq.total().max(1);
    let mut y = Vec::new();
    for (rows, &stream) in seq.ranges().zip(streams) {
        for (i, row) in rows.enumerate() {
            for j in 0..d {
                let dropped = rng::bits(rng::row(stream, i as u64), j as u32) < rng::threshold(p);
                y.push(if dropped { 0.0 } else { x[row * d + j] / (1.0 - f64::from(p)) });
            }
        }
    }
    y
}
