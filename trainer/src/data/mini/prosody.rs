//! Emotion as sound: the same syllables, spoken faster or slower, rising or falling, trembling, hard or dark,
//! and at last all equally loud.

use super::config::{MiniConfig, ProsodyConfig, Spread};
use crate::data::audio::SAMPLE_RATE;
use crate::data::draw::Draws;
use std::f64::consts::{PI, TAU};

/// One utterance's way of speaking.
#[derive(Clone, Debug)]
pub struct Prosody {
    speed: f64,
    rise: f64,
    /// Semitones off the line, one per syllable.
    jitter: Vec<f64>,
    gap_ms: f64,
    tremolo_hz: f64,
    tremolo_depth: f64,
    drive: f64,
    tilt_db: f64,
}

impl Prosody {
    /// Draws the way one utterance of `syllables` syllables is spoken.
    pub fn draw(config: &ProsodyConfig, voice_speed: f64, syllables: usize, draws: &mut Draws) -> Self {
        let mut positive = |spread: Spread| draws.spread(spread).max(0.0);
        let (tremolo_hz, tremolo_depth, drive) =
            (positive(config.tremolo_hz), positive(config.tremolo_depth).min(1.0), positive(config.drive));
        let jitter = draws.spread(config.jitter);
        Self {
            speed: voice_speed * draws.spread(config.speed),
            rise: draws.spread(config.rise),
            jitter: (0..syllables).map(|_| draws.spread(Spread(0.0, jitter))).collect(),
            gap_ms: draws.spread(config.gap_ms),
            tremolo_hz,
            tremolo_depth,
            drive,
            tilt_db: draws.spread(config.tilt_db),
        }
    }

    /// The factor on speed at `position` of the utterance, 0 at its beginning and 1 at its end. Jitter is linear
    /// between the middles of the syllables.
    fn rate(&self, position: f64) -> f64 {
        let at = (position * self.jitter.len() as f64 - 0.5).clamp(0.0, (self.jitter.len().max(1) - 1) as f64);
        let (left, part) = (at as usize, at.fract());
        let jitter = |i: usize| self.jitter.get(i).copied().unwrap_or(0.0);
        let semitones = self.rise * (position - 0.5) + jitter(left) * (1.0 - part) + jitter(left + 1) * part;
        self.speed * (semitones / 12.0).exp2()
    }

    /// Speaks `pieces`, sampled at `rate_hz`, one after the other: 16 kHz, not yet levelled.
    pub fn speak(&self, pieces: &[&[f32]], rate_hz: f64) -> Vec<f32> {
        let ratio = rate_hz / f64::from(SAMPLE_RATE);
        let fastest = (0..=32).map(|i| self.rate(f64::from(i) / 32.0)).fold(0.0, f64::max);
        let kernel = Sinc::new((1.0 / (ratio * fastest)).min(1.0));
        let mut speech = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let position = |x: f64| (i as f64 + x) / pieces.len() as f64;
            let mut warped = kernel.warp(piece, |x| ratio * self.rate(position(x)));
            fade(&mut warped, samples(4.0));
            join(&mut speech, &warped, samples(self.gap_ms));
        }
        self.colour(&mut speech);
        speech
    }

    /// Saturation, tilt, tremolo.
    fn colour(&self, speech: &mut [f32]) {
        if self.drive > 0.0 {
            let gain = self.drive / rms(speech).max(1e-9);
            speech.iter_mut().for_each(|x| *x = (gain * f64::from(*x)).tanh() as f32);
        }
        // A one-pole low-pass at 1 kHz splits low from high; the high part is turned up or down.
        let pole = (-TAU * 1000.0 / f64::from(SAMPLE_RATE)).exp();
        let high = 10f64.powf(self.tilt_db / 20.0);
        let mut low = 0.0;
        for (i, x) in speech.iter_mut().enumerate() {
            low += (1.0 - pole) * (f64::from(*x) - low);
            let tremble = (TAU * self.tremolo_hz * i as f64 / f64::from(SAMPLE_RATE)).sin();
            let loudness = 1.0 - self.tremolo_depth * (0.5 + 0.5 * tremble);
            *x = ((low + high * (f64::from(*x) - low)) * loudness) as f32;
        }
    }
}

/// Adds margins and noise, and brings the whole to the level every utterance has.
pub fn finish(speech: &[f32], config: &MiniConfig, draws: &mut Draws) -> Vec<i16> {
    let margin = |draws: &mut Draws| samples(draws.spread(config.margin_ms)).max(0) as usize;
    let (before, after) = (margin(draws), margin(draws));
    let noise = rms(speech) * 10f64.powf(-draws.spread(config.noise_db) / 20.0);
    let mut all = vec![0.0; before];
    all.extend(speech.iter().map(|&x| f64::from(x)));
    all.resize(all.len() + after, 0.0);
    // Uniform in ±√3 has unit variance.
    all.iter_mut().for_each(|x| *x += noise * draws.spread(Spread(0.0, 3f64.sqrt())));
    let power = all.iter().map(|x| x * x).sum::<f64>() / all.len().max(1) as f64;
    let gain = config.level * 32768.0 / power.sqrt().max(1e-12);
    all.iter().map(|x| (gain * x).round() as i16).collect()
}

/// Root mean square; 0 for nothing.
pub fn rms(x: &[f32]) -> f64 {
    (x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / x.len().max(1) as f64).sqrt()
}

/// The samples of `ms` milliseconds; negative for negative.
fn samples(ms: f64) -> isize {
    (ms * f64::from(SAMPLE_RATE) / 1000.0).round() as isize
}

/// Raised-cosine edges, so that joins do not click.
fn fade(x: &mut [f32], edge: isize) {
    let edge = (edge.max(1) as usize).min(x.len() / 2);
    let last = x.len().saturating_sub(1);
    for i in 0..edge {
        let gain = (0.5 - 0.5 * (PI * (i as f64 + 0.5) / edge as f64).cos()) as f32;
        x[i] *= gain;
        x[last - i] *= gain;
    }
}

/// Appends `next` after `gap` samples of silence, or over the last `-gap` samples, cross-fading linearly.
fn join(speech: &mut Vec<f32>, next: &[f32], gap: isize) {
    if gap >= 0 || speech.is_empty() {
        let silence = if speech.is_empty() { 0 } else { gap.unsigned_abs() };
        speech.resize(speech.len() + silence, 0.0);
        speech.extend_from_slice(next);
        return;
    }
    let overlap = gap.unsigned_abs().min(speech.len()).min(next.len() / 2);
    let from = speech.len() - overlap;
    for (i, (old, new)) in speech[from..].iter_mut().zip(next).enumerate() {
        let part = (i as f32 + 0.5) / overlap as f32;
        *old = *old * (1.0 - part) + new * part;
    }
    speech.extend_from_slice(&next[overlap..]);
}

/// Band-limited interpolation: a Hann-windowed sinc, tabulated at fractions of a sample.
struct Sinc {
    taps: Vec<[f32; 2 * Sinc::HALF]>,
}

impl Sinc {
    /// Taps on either side.
    const HALF: usize = 16;
    /// Fractions of a sample in the table.
    const PHASES: usize = 256;

    /// `cutoff` in (0, 1], of the source's Nyquist frequency.
    fn new(cutoff: f64) -> Self {
        let tap = |phase: usize, i: usize| {
            let x = i as f64 - (Self::HALF as f64 - 1.0) - phase as f64 / Self::PHASES as f64;
            let sinc = if x.abs() < 1e-9 { 1.0 } else { (PI * cutoff * x).sin() / (PI * cutoff * x) };
            let window = 0.5 + 0.5 * (PI * x / Self::HALF as f64).clamp(-PI, PI).cos();
            (cutoff * sinc * window) as f32
        };
        Self { taps: (0..Self::PHASES).map(|phase| std::array::from_fn(|i| tap(phase, i))).collect() }
    }

    /// Reads `source` at a speed of `rate(x)` source samples per output sample, `x` in [0, 1) the place in it.
    fn warp(&self, source: &[f32], rate: impl Fn(f64) -> f64) -> Vec<f32> {
        let mut padded = vec![0.0; source.len() + 2 * Self::HALF];
        padded[Self::HALF - 1..Self::HALF - 1 + source.len()].copy_from_slice(source);
        let mut out = Vec::new();
        let mut at = 0.0;
        while at < source.len() as f64 {
            let phase = (at.fract() * Self::PHASES as f64) as usize;
            let window = &padded[at as usize..at as usize + 2 * Self::HALF];
            out.push(window.iter().zip(&self.taps[phase]).map(|(x, tap)| x * tap).sum());
            at += rate(at / source.len() as f64);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f64, rate_hz: f64, seconds: f64) -> Vec<f32> {
        (0..(seconds * rate_hz) as usize).map(|i| (TAU * hz * i as f64 / rate_hz).sin() as f32).collect()
    }

    #[test]
    fn reading_faster_raises_the_pitch_and_shortens() {
        let (source, rate) = (tone(400.0, 22050.0, 0.5), 22050.0 / 16000.0 * 1.25);
        let out = Sinc::new(1.0 / rate).warp(&source, |_| rate);
        assert_eq!(out.len(), (source.len() as f64 / rate).ceil() as usize);
        let wanted = tone(500.0, 16000.0, 0.4);
        let middle = 200..out.len() - 200;
        let worst = middle.map(|i| (out[i] - wanted[i]).abs()).fold(0.0, f32::max);
        assert!(worst <= 0.02, "{worst}");
    }

    #[test]
    fn joins_overlap_or_leave_a_gap() {
        let mut speech = vec![1.0; 100];
        join(&mut speech, &[1.0; 100], -20);
        assert_eq!(speech.len(), 180);
        assert!(speech.iter().all(|x| (x - 1.0).abs() <= 1e-6));
        join(&mut speech, &[1.0; 100], 20);
        assert_eq!(speech.len(), 300);
        assert!(speech[180..200].iter().all(|&x| x == 0.0));
    }

    #[test]
    fn the_rate_follows_speed_rise_and_jitter() {
        let mut prosody = Prosody {
            speed: 1.1,
            rise: 12.0,
            jitter: vec![0.0; 4],
            gap_ms: 0.0,
            tremolo_hz: 0.0,
            tremolo_depth: 0.0,
            drive: 0.0,
            tilt_db: 0.0,
        };
        assert!((prosody.rate(1.0) / prosody.rate(0.0) - 2.0).abs() <= 1e-12);
        assert!((prosody.rate(0.5) - 1.1).abs() <= 1e-12);
        prosody.jitter = vec![12.0, 0.0, 0.0, 0.0];
        assert!((prosody.rate(0.125) - 2.2 * (-0.375f64).exp2()).abs() <= 1e-12);
    }
}
