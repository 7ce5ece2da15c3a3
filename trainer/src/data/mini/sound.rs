//! How an emotion came out: what can be measured in place of listening.

use super::error::MiniError;
use super::prosody::rms;
use crate::data::emotion::Emotion;
use crate::data::manifest;
use rayon::prelude::*;
use std::path::Path;

/// How each emotion sounds in the recordings of a manifest, on average; without utterances of an emotion all is 0.
pub fn by_emotion(path: &Path) -> Result<Vec<(Emotion, Sound)>, MiniError> {
    let entries = manifest::read(path)?;
    let sounds = entries
        .par_iter()
        .map(|entry| Ok((entry.emotion, Sound::of(&entry.load(None)?.audio, entry.text.chars().count()))))
        .collect::<Result<Vec<_>, MiniError>>()?;
    let of = |emotion| sounds.iter().filter(|s| s.0 == Some(emotion)).map(|s| s.1).collect::<Vec<_>>();
    Ok(Emotion::ALL.map(|emotion| (emotion, Sound::mean(&of(emotion)))).into())
}

/// Measures of one utterance, or their means over several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sound {
    /// Seconds per character.
    pub pace: f64,
    /// Level in dB of full scale.
    pub level_db: f64,
    /// Median fundamental frequency of the voiced frames in Hz.
    pub pitch: f64,
    /// Pitch of the last third against the first, in semitones.
    pub rise: f64,
    /// Root-mean-square frequency of the spectrum, in Hz: sqrt(∫f²P/∫P), from the signal and its differences.
    pub brightness: f64,
}

impl Sound {
    /// Measures an utterance of `characters` characters at 16 kHz.
    pub fn of(audio: &[i16], characters: usize) -> Self {
        let x: Vec<f32> = audio.iter().map(|&x| f32::from(x) / 32768.0).collect();
        let differences: Vec<f32> = x.windows(2).map(|w| w[1] - w[0]).collect();
        let pitches: Vec<f64> = pitches(&x);
        let third = pitches.len() / 3;
        let (first, last) = (median(&pitches[..third]), median(&pitches[pitches.len() - third..]));
        Self {
            pace: x.len() as f64 / 16000.0 / characters.max(1) as f64,
            level_db: 20.0 * rms(&x).max(1e-9).log10(),
            pitch: median(&pitches),
            rise: if first > 0.0 && last > 0.0 { 12.0 * (last / first).log2() } else { 0.0 },
            brightness: rms(&differences) / rms(&x).max(1e-9) * 16000.0 / std::f64::consts::TAU,
        }
    }

    /// The mean of several.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |field: fn(&Self) -> f64| all.iter().map(field).sum::<f64>() / all.len().max(1) as f64;
        Self {
            pace: mean(|s| s.pace),
            level_db: mean(|s| s.level_db),
            pitch: mean(|s| s.pitch),
            rise: mean(|s| s.rise),
            brightness: mean(|s| s.brightness),
        }
    }
}

/// Fundamental frequencies of the voiced frames, by autocorrelation at 4 kHz.
fn pitches(x: &[f32]) -> Vec<f64> {
    const WINDOW: usize = 200;
    const LAGS: std::ops::RangeInclusive<usize> = 9..=57; // 444 to 70 Hz
    let low: Vec<f64> = x.chunks_exact(4).map(|c| c.iter().map(|&x| f64::from(x)).sum()).collect();
    let loud = low.iter().map(|x| x * x).sum::<f64>() / low.len().max(1) as f64;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let frames = low.windows(WINDOW + LAGS.end() + 1).step_by(80);
    frames
        .filter_map(|frame| {
            let still = &frame[..WINDOW];
            let power = dot(still, still);
            let likeness = |lag: usize| {
                let moved = &frame[lag..lag + WINDOW];
                dot(still, moved) / (power * dot(moved, moved)).sqrt().max(1e-12)
            };
            let best = LAGS.map(|lag| (lag, likeness(lag))).max_by(|a, b| a.1.total_cmp(&b.1))?;
            // Of the multiples of the period the shortest that is about as good.
            let lag =
                LAGS.into_iter().find(|&lag| likeness(lag) >= 0.93 * best.1 && likeness(lag) >= likeness(lag + 1))?;
            (power / WINDOW as f64 > 0.3 * loud && best.1 > 0.7).then(|| 4000.0 / lag as f64)
        })
        .collect()
}

fn median(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_measured_as_what_it_is() {
        let tone: Vec<i16> = (0..16000)
            .map(|i| (8000.0 * (std::f64::consts::TAU * 200.0 * f64::from(i) / 16000.0).sin()) as i16)
            .collect();
        let sound = Sound::of(&tone, 4);
        assert!((sound.pitch - 200.0).abs() <= 5.0, "{sound:?}");
        assert!((sound.brightness - 200.0).abs() <= 5.0, "{sound:?}");
        assert!((sound.level_db + 15.26).abs() <= 0.05, "{sound:?}");
        assert!((sound.pace - 0.25).abs() <= 1e-9 && sound.rise.abs() <= 0.1, "{sound:?}");
    }
}
