//! Clips of a recording → mono f32 at the recording's own rate.

use super::source::{Decoded, Source};
use super::window::{Block, Pcm, Window, bounds, check_clip};
use super::{AudioError, Clip, Input};

/// A seek lands this much earlier than asked, so that codecs which look back (mp3, aac, vorbis, opus) have warmed up.
const PRE_ROLL_SECONDS: f64 = 0.5;

/// Decodes `clips` of the recording `input` in one pass over the part of it that they span, and hands each to `finish` when it is complete. The results
/// are in the order of the clips; damage spoils the clips that were not complete when it was met.
pub(super) fn decode<T>(
    input: Input,
    clips: &[Clip],
    finish: &dyn Fn(Pcm) -> Result<T, AudioError>,
) -> Vec<Result<T, AudioError>> {
    let first = clips.iter().map(|c| c.offset).fold(f64::INFINITY, f64::min);
    match Source::open_at(input, (first > 2.0 * PRE_ROLL_SECONDS).then_some(first - PRE_ROLL_SECONDS)) {
        Ok(source) => Reading::new(source, clips, finish).run(),
        Err(e) => clips.iter().map(|_| Err(e.clone())).collect(),
    }
}

/// Frames and rate of `clip`, without decoding if the header tells.
pub(super) fn measure(input: Input, clip: &Clip) -> Result<(u64, u32), AudioError> {
    let name = input.name();
    let Some((frames, rate)) = Source::open_at(input, None)?.announced() else {
        let pcm = decode(input, std::slice::from_ref(clip), &Ok).remove(0)?;
        return Ok((pcm.samples.len() as u64, pcm.rate));
    };
    let (start, end) = bounds(clip, rate);
    let stop = end.unwrap_or(frames).min(frames);
    check_clip(name, clip, frames, rate)?;
    let kept = stop.saturating_sub(start);
    match clip.max_seconds {
        Some(max_seconds) if kept as f64 > max_seconds * f64::from(rate) => {
            Err(AudioError::TooLong { path: name.into(), max_seconds })
        }
        _ => Ok((kept, rate)),
    }
}

/// What has become of a clip so far.
enum State<T> {
    /// No frame of it has been met.
    Ahead(Clip),
    Met(Window),
    Done(Result<T, AudioError>),
}

/// One pass over a recording.
struct Reading<'i, T> {
    source: Source<'i>,
    finish: &'i dyn Fn(Pcm) -> Result<T, AudioError>,
    states: Vec<State<T>>,
    /// Clips by where they begin; those before `next` have been met.
    order: Vec<usize>,
    next: usize,
    /// Clips that were met and want more.
    open: Vec<usize>,
    /// The frame after the last one decoded.
    end: u64,
    /// 0 before the first block.
    rate: u32,
}

impl<'i, T> Reading<'i, T> {
    fn new(source: Source<'i>, clips: &[Clip], finish: &'i dyn Fn(Pcm) -> Result<T, AudioError>) -> Self {
        let mut order: Vec<usize> = (0..clips.len()).collect();
        order.sort_by(|&a, &b| clips[a].offset.total_cmp(&clips[b].offset));
        let states = clips.iter().map(|c| State::Ahead(*c)).collect();
        Self { source, finish, states, order, next: 0, open: Vec::new(), end: 0, rate: 0 }
    }

    fn run(mut self) -> Vec<Result<T, AudioError>> {
        let failure = self.read().err();
        let (name, end, rate) = (self.source.name(), self.end, self.rate);
        let result = |state| match (state, &failure) {
            (State::Done(result), _) => result,
            (_, Some(e)) => Err(e.clone()),
            (State::Met(window), None) => window.finish(name, end).and_then(self.finish),
            (State::Ahead(_), None) if rate == 0 => Err(AudioError::NoSamples { path: name.into() }),
            (State::Ahead(clip), None) => Window::new(&clip, rate).finish(name, end).and_then(self.finish),
        };
        self.states.into_iter().map(result).collect()
    }

    /// Decodes until every clip is complete or the recording ends.
    fn read(&mut self) -> Result<(), AudioError> {
        let mut frames = Vec::new();
        while let Some(Decoded { rate, channels, start }) = self.source.next(&mut frames)? {
            if self.rate == 0 {
                self.rate = rate;
            }
            if rate != self.rate {
                let reason = "the sample rate changes midway".into();
                return Err(AudioError::Unsupported { path: self.source.name().into(), reason });
            }
            self.take(&Block { frames: &frames, channels, start });
            if self.open.is_empty() && self.next == self.order.len() {
                break;
            }
        }
        Ok(())
    }

    /// Hands a block to the clips it belongs to.
    fn take(&mut self, block: &Block) {
        let block_end = block.start + block.count();
        self.end = self.end.max(block_end);
        while let Some(&clip) = self.order.get(self.next) {
            let State::Ahead(wanted) = &self.states[clip] else { break };
            if bounds(wanted, self.rate).0 >= block_end {
                break;
            }
            self.states[clip] = State::Met(Window::new(wanted, self.rate));
            self.open.push(clip);
            self.next += 1;
        }
        let (states, name, end) = (&mut self.states, self.source.name(), self.end);
        self.open.retain(|&clip| {
            let State::Met(window) = &mut states[clip] else { return false };
            let done = match window.push(block, name) {
                Ok(false) => return true,
                Ok(true) => window.take().finish(name, end).and_then(self.finish),
                Err(e) => Err(e),
            };
            states[clip] = State::Done(done);
            false
        });
    }
}
