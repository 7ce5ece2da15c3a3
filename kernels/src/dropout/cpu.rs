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
        run(
            #[inline(always)]
            || {
                for (y, (x, &key)) in y.chunks_exact_mut(d).zip(rows) {
                    for (j, (y, &x)) in (0u32..).zip(y.iter_mut().zip(x)) {
                        *y += if bits(key, j) < mask.threshold { 0.0 } else { x * mask.scale };
                    }
                }
            },
        );
    });
}
