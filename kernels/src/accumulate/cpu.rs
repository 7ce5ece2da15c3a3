//! Addition on the CPU.

use crate::parallel::{SERIAL_BELOW, for_rows};
use crate::simd::run;

/// Adds `x` to `sum`.
pub fn add(sum: &mut [f32], x: &[f32]) {
    for_rows(sum, 1, SERIAL_BELOW, |first, sum| {
        let x = &x[first..][..sum.len()];
        run(
            #[inline(always)]
            || sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x),
        );
    });
}
