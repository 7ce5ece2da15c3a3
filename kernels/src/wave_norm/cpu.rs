//! Wave normalisation on the CPU. The sums are of integers, hence exact.

use crate::simd::run;

/// One utterance.
pub fn forward(samples: &[i16], out: &mut [f32], normalize: bool) {
    let (mean, scale) = if normalize { moments(samples) } else { (0.0, 1.0 / 32768.0) };
    run(
        #[inline(always)]
        || {
            for (out, &x) in out.iter_mut().zip(samples) {
                *out = ((f64::from(x) - mean) * scale) as f32;
            }
        },
    );
}

/// The mean in units of a sample, and what takes the distance from it to unit variance.
fn moments(samples: &[i16]) -> (f64, f64) {
    let n = samples.len().max(1) as f64;
    let (sum, squares) = run(
        #[inline(always)]
        || {
            let sum: i64 = samples.iter().map(|&x| i64::from(x)).sum();
            let squares: i64 = samples.iter().map(|&x| i64::from(i32::from(x) * i32::from(x))).sum();
            (sum, squares)
        },
    );
    // n·Σx² - (Σx)² in integers: nothing cancels, whatever the offset.
    let spread = i128::from(squares) * samples.len() as i128 - i128::from(sum) * i128::from(sum);
    let variance = spread as f64 / (n * n) / (32768.0 * 32768.0);
    (sum as f64 / n, 1.0 / (32768.0 * (variance + 1e-7).sqrt()))
}
