//! Speech played faster or slower, pitch and all, as by sox's `speed`.

use rubato::Fft;

use super::resample::{resampler, run};
use super::{SAMPLE_RATE, to_i16};

/// Changes the speed of recordings; keeps a resampler for each speed.
#[derive(Default)]
pub struct SpeedChanger {
    resamplers: Vec<(u32, Fft<f32>)>,
}

impl SpeedChanger {
    /// 16 kHz `samples` taken to be of `rate` Hz, at 16 kHz: `rate / 16000` times as fast, `ceil(samples * 16000 / rate)` samples.
    ///
    /// Errors: a rate that the resampler does not take, in its own words.
    pub fn play(&mut self, samples: &[i16], rate: u32) -> Result<Vec<i16>, String> {
        if rate == SAMPLE_RATE || samples.is_empty() {
            return Ok(samples.to_vec());
        }
        let at = match self.resamplers.iter().position(|(known, _)| *known == rate) {
            Some(at) => at,
            None => {
                self.resamplers.push((rate, resampler(rate)?));
                self.resamplers.len() - 1
            }
        };
        let samples: Vec<f32> = samples.iter().map(|&x| f32::from(x) / 32_768.0).collect();
        Ok(run(&mut self.resamplers[at].1, &samples, rate)?.into_iter().map(to_i16).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A second of `hz`.
    fn tone(hz: f64) -> Vec<i16> {
        (0..16_000).map(|t| (10_000.0 * (std::f64::consts::TAU * hz * f64::from(t) / 16_000.0).sin()) as i16).collect()
    }

    #[test]
    fn faster_is_shorter_and_higher() {
        let mut changer = SpeedChanger::default();
        for (rate, len, hz) in [(14_400, 17_778, 360.0), (17_600, 14_546, 440.0), (16_000, 16_000, 400.0)] {
            let played = changer.play(&tone(400.0), rate).unwrap();
            assert_eq!(played.len(), len);
            // Away from the ends it is the tone of another pitch.
            let (middle, ideal) = (&played[2000..12_000], &tone(hz)[2000..12_000]);
            let worst = middle.iter().zip(ideal).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).max();
            assert!(worst.unwrap() <= 30, "{rate} Hz: {worst:?}");
        }
    }

    #[test]
    fn a_kept_resampler_remembers_nothing() {
        let mut kept = SpeedChanger::default();
        let before = kept.play(&tone(300.0), 17_600).unwrap();
        kept.play(&tone(700.0), 17_600).unwrap();
        assert_eq!(kept.play(&tone(300.0), 17_600).unwrap(), before);
        assert!(kept.play(&[], 17_600).unwrap().is_empty());
    }
}
