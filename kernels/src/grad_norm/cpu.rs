//! Sum of squares on the CPU: pieces of fixed size, added in order.

use crate::parallel::{SERIAL_BELOW, map};
use crate::simd::{LANES, run};

/// `Σ x²`.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let piece = |i: usize| {
        let x = &x[i * SERIAL_BELOW..x.len().min((i + 1) * SERIAL_BELOW)];
        run(
            #[inline(always)]
            || piece_sum(x),
        )
    };
    map(x.len().div_ceil(SERIAL_BELOW), x.len(), piece).into_iter().sum()
}

#[inline(always)]
fn piece_sum(x: &[f32]) -> f64 {
    let mut partial = [0.0f64; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (p, &x) in partial.iter_mut().zip(block) {
            *p += f64::from(x) * f64::from(x);
        }
    }
    for (p, &x) in partial.iter_mut().zip(rest) {
        *p += f64::from(x) * f64::from(x);
    }
    partial.iter().sum()
}
