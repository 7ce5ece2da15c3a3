//! Dropout on the CPU.

use super::Mask;
use crate::parallel::{for_rows, piece_rows};
use crate::rng::bits;
use crate::simd::run;

/// `x` masked and scaled.
pub fn apply(x: &[f32], mask: &Mask) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    masked(&mut y, x, mask);
    y
}

/// `residual + apply(x)`.
pub fn add(residual: &[f32], x: &[f32], mask: &Mask) -> Vec<f32> {
    let mut y = residual.to_vec();
    masked(&mut y, x, mask);
    y
}

/// Adds `x`, masked and scaled, to `y`.
fn masked(y: &mut [f32], x: &[f32], mask: &Mask) {
    let d = mask.width;
    for_rows(y, d, piece_rows(d), |first, y| {
        let rows = x[first * d..].chunks_exact(d).zip(&mask.keys[first..]);
        for (y, (x, &key)) in y.chunks_exact_mut(d).zip(rows) {
            run(
                #[inline(always)]
                || masked_row(y, x, key, mask.threshold, mask.scale),
            );
        }
    });
}

#[inline(always)]
fn masked_row(y: &mut [f32], x: &[f32], key: u32, threshold: u32, scale: f32) {
    let n = y.len();
    let x = &x[..n];
    for j in 0..n {
        y[j] += if bits(key, j as u32) < threshold { 0.0 } else { x[j] * scale };
    }
}
