//! Opus packets (RFC 6716) by libopus, straight to 16 kHz mono: the decoder resamples and mixes down as it decodes.

use opus::{Channels, Decoder};

use super::SAMPLE_RATE;

/// The rate Ogg Opus counts in, whatever was recorded (RFC 7845 §4).
pub(super) const GRANULE_RATE: u32 = 48_000;
/// The longest packet is 120 ms.
const MAX_FRAMES: usize = SAMPLE_RATE as usize * 120 / 1000;

/// A decoder of one stream.
pub(super) struct Opus {
    decoder: Decoder,
}

impl Opus {
    pub(super) fn new() -> Result<Self, String> {
        let decoder = Decoder::new(SAMPLE_RATE, Channels::Mono).map_err(|e| e.to_string())?;
        Ok(Self { decoder })
    }

    /// Forgets what came before, as after a seek.
    pub(super) fn reset(&mut self) -> Result<(), String> {
        self.decoder.reset_state().map_err(|e| e.to_string())
    }

    /// Decodes `packet` into `frames`, less the last `trim_end` frames at 48 kHz.
    pub(super) fn decode(&mut self, packet: &[u8], trim_end: u64, frames: &mut Vec<f32>) -> Result<(), String> {
        frames.resize(MAX_FRAMES, 0.0);
        let count = self.decoder.decode_float(packet, frames, false).map_err(|e| e.to_string())?;
        let trimmed = usize::try_from(to_16k(trim_end)).unwrap_or(usize::MAX);
        frames.truncate(count.saturating_sub(trimmed));
        Ok(())
    }
}

/// Frames at 16 kHz for frames at 48 kHz.
pub(super) fn to_16k(frames: u64) -> u64 {
    frames / u64::from(GRANULE_RATE / SAMPLE_RATE)
}
