//! Conversion of a whole recording to 16 kHz, with the filter's delay removed.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::SAMPLE_RATE;

/// Least input frames per FFT block: long enough for a steep anti-aliasing filter, short against an utterance.
const BLOCK: usize = 2048;

/// Input frames per FFT block: an even number of periods of the rates' ratio, since the filter delays by half a block
/// and only a whole number of frames can be removed again.
fn block(rate: u32) -> usize {
    let (mut a, mut b) = (rate as usize, SAMPLE_RATE as usize);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let period = rate as usize / a;
    BLOCK.div_ceil(period).next_multiple_of(2) * period
}

/// `ceil(frames * 16000 / rate)`.
pub(super) fn expected_len(frames: u64, rate: u32) -> u64 {
    let scaled = u128::from(frames) * u128::from(SAMPLE_RATE);
    u64::try_from(scaled.div_ceil(u128::from(rate.max(1)))).unwrap_or(u64::MAX)
}

/// Resamples mono `samples` from `rate` Hz to 16 kHz.
pub(super) fn to_16k(samples: Vec<f32>, rate: u32) -> Result<Vec<f32>, String> {
    if rate == SAMPLE_RATE || samples.is_empty() {
        return Ok(samples);
    }
    run(&mut resampler(rate)?, &samples, rate)
}

/// From `rate` Hz to 16 kHz.
pub(super) fn resampler(rate: u32) -> Result<Fft<f32>, String> {
    let (from, to) = (rate as usize, SAMPLE_RATE as usize);
    Fft::new_custom(from, to, block(rate), 1, 1, WindowFunction::BlackmanHarris2, FixedSync::Both)
        .map_err(|e| e.to_string())
}

/// All of `samples` at once through `resampler`, which is for `rate` and keeps nothing from one call to the next.
pub(super) fn run(resampler: &mut Fft<f32>, samples: &[f32], rate: u32) -> Result<Vec<f32>, String> {
    let frames = samples.len();
    let input = SequentialSlice::new(samples, 1, frames).map_err(|e| e.to_string())?;
    let mut output = resampler.process_all(&input, frames, None).map_err(|e| e.to_string())?.take_data();
    // rubato rounds the length in floating point.
    output.resize(expected_len(frames as u64, rate) as usize, 0.0);
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_length_rounds_up_exactly() {
        assert_eq!(expected_len(44_100, 44_100), 16_000);
        assert_eq!(expected_len(44_101, 44_100), 16_001);
        assert_eq!(expected_len(0, 8_000), 0);
        assert_eq!(expected_len(3, 48_000), 1);
        assert_eq!(expected_len(4, 48_000), 2);
        assert_eq!(expected_len(u64::MAX, 1), u64::MAX);
    }
}
