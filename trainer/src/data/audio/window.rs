//! The frames of one clip, picked out of what is decoded.

use std::path::Path;

use super::{AudioError, Clip};

/// Manifests round durations: a clip may end so much after the file does, in seconds and as a share.
const CLIP_SLACK_SECONDS: f64 = 0.1;
const CLIP_SLACK_SHARE: f64 = 0.01;

/// Mono samples and their rate in Hz.
pub(super) struct Pcm {
    pub(super) samples: Vec<f32>,
    pub(super) rate: u32,
}

/// Decoded frames, interleaved, and where in the recording they begin.
pub(super) struct Block<'a> {
    pub(super) frames: &'a [f32],
    pub(super) channels: usize,
    /// The first frame's number.
    pub(super) start: u64,
}

impl Block<'_> {
    pub(super) fn count(&self) -> u64 {
        (self.frames.len() / self.channels.max(1)) as u64
    }
}

/// Collects the frames of a clip, all of one rate.
pub(super) struct Window {
    clip: Clip,
    rate: u32,
    start: u64,
    stop: Option<u64>,
    /// How many frames are kept before it is an error.
    limit: u64,
    frames: Vec<f32>,
}

impl Window {
    pub(super) fn new(clip: &Clip, rate: u32) -> Self {
        let (start, stop) = bounds(clip, rate);
        let limit = clip.max_seconds.map_or(u64::MAX, |s| (s * f64::from(rate)) as u64);
        Self { clip: *clip, rate, start, stop, limit, frames: Vec::new() }
    }

    /// Takes what is the clip's of `block`; true if its last frame is there now.
    pub(super) fn push(&mut self, block: &Block, name: &Path) -> Result<bool, AudioError> {
        let count = block.count();
        let within = |frame: u64| frame.saturating_sub(block.start).min(count) as usize;
        let first = within(self.start);
        let last = self.stop.map_or(count as usize, within).max(first);
        let chosen = &block.frames[first * block.channels..last * block.channels];
        match block.channels {
            1 => self.frames.extend_from_slice(chosen),
            n => self.frames.extend(chosen.chunks_exact(n).map(|frame| frame.iter().sum::<f32>() / n as f32)),
        }
        if self.frames.len() as u64 > self.limit {
            let max_seconds = self.clip.max_seconds.unwrap_or_default();
            return Err(AudioError::TooLong { path: name.into(), max_seconds });
        }
        Ok(self.stop.is_some_and(|stop| block.start + count >= stop))
    }

    /// The window with what it has; an empty one stays.
    pub(super) fn take(&mut self) -> Self {
        Self { frames: std::mem::take(&mut self.frames), ..*self }
    }

    /// The clip, of a recording that was read up to frame `end`.
    pub(super) fn finish(self, name: &Path, end: u64) -> Result<Pcm, AudioError> {
        check_clip(name, &self.clip, end, self.rate)?;
        match self.frames.is_empty() {
            true => Err(AudioError::NoSamples { path: name.into() }),
            false => Ok(Pcm { samples: self.frames, rate: self.rate }),
        }
    }
}

/// First frame and end of `clip` at `rate`.
pub(super) fn bounds(clip: &Clip, rate: u32) -> (u64, Option<u64>) {
    let frame = |seconds: f64| (seconds * f64::from(rate)).round() as u64;
    let start = frame(clip.offset);
    (start, clip.duration.map(|d| start.saturating_add(frame(d))))
}

/// Errors if `clip` is not inside a file of `frames` frames.
pub(super) fn check_clip(name: &Path, clip: &Clip, frames: u64, rate: u32) -> Result<(), AudioError> {
    if frames == 0 {
        return Err(AudioError::NoSamples { path: name.into() });
    }
    let end = frames as f64 / f64::from(rate);
    let duration = clip.duration.unwrap_or(0.0);
    let slack = CLIP_SLACK_SECONDS.max(CLIP_SLACK_SHARE * duration).min(0.5 * duration);
    let (start, _) = bounds(clip, rate);
    if start >= frames || clip.offset + duration > end + slack {
        return Err(AudioError::OutsideFile { path: name.into(), offset: clip.offset, duration, end });
    }
    Ok(())
}
