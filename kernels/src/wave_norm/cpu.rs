//! Wave normalisation on the CPU. The sums are of integers, hence exact.

use crate::simd::run;

/// Samples summed in 32 bits, which hold as many of any size; small enough to stay in the cache between the two sums.
const BLOCK: usize = 4096;

/// One utterance.
pub fn forward(samples: &[i16], out: &mut [f32], normalize: bool) {
    let scaled = scaling(samples, normalize);
    run(
        #[inline(always)]
        || out.iter_mut().zip(samples).for_each(|(out, &x)| *out = scaled(x)),
    );
}

/// One utterance behind what `out` holds.
pub fn append(samples: &[i16], out: &mut Vec<f32>, normalize: bool) {
    let scaled = scaling(samples, normalize);
    run(
        #[inline(always)]
        || out.extend(samples.iter().map(|&x| scaled(x))),
    );
}

/// What becomes of a sample.
#[inline(always)]
fn scaling(samples: &[i16], normalize: bool) -> impl Fn(i16) -> f32 {
    let (mean, scale) = if normalize { moments(samples) } else { (0.0, 1.0 / 32768.0) };
    #[inline(always)]
    move |x| ((f64::from(x) - mean) * scale) as f32
}

/// The mean in units of a sample, and what takes the distance from it to unit variance.
fn moments(samples: &[i16]) -> (f64, f64) {
    let n = samples.len().max(1) as f64;
    let (sum, squares) = run(
        #[inline(always)]
        || {
            let (mut sum, mut squares) = (0i64, 0u64);
            for block in samples.chunks(BLOCK) {
                sum += i64::from(block.iter().map(|&x| i32::from(x)).sum::<i32>());
                let (pairs, rest) = block.as_chunks::<2>();
                let square = |x: i16| (i32::from(x) * i32::from(x)) as u32;
                squares += pairs.iter().map(|&[a, b]| u64::from(square(a) + square(b))).sum::<u64>();
                squares += rest.iter().map(|&x| u64::from(square(x))).sum::<u64>();
            }
            (sum, squares)
        },
    );
    // n·Σx² - (Σx)² in integers: nothing cancels, whatever the offset.
    let spread = i128::from(squares) * samples.len() as i128 - i128::from(sum) * i128::from(sum);
    let variance = spread as f64 / (n * n) / (32768.0 * 32768.0);
    (sum as f64 / n, 1.0 / (32768.0 * (variance + 1e-7).sqrt()))
}
