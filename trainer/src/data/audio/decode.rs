//! Clips of a recording → mono f32 at the recording's own rate.

use super::source::{Decoded, Source};
use super::window::{Block, Pcm, Window, bounds, check_clip};
use super::{AudioError, Clip, Input};

/// A seek lands this much earlier than asked, so that codecs which look back (mp3, aac, vorbis, opus) have warmed up.
const PRE_ROLL_SECONDS: f64 = 0.5;

/// Decodes `clips` of the recording `input` in one pass over the part of it that they span. The results are in the order of the
/// clips; damage spoils the clips that were not complete when it was met.
pub(super) fn decode(input: Input, clips: &[Clip]) -> Vec<Result<Pcm, AudioError>> {
    let first = clips.iter().map(|c| c.offset).fold(f64::INFINITY, f64::min);
    match Source::open_at(input, (first > 2.0 * PRE_ROLL_SECONDS).then_some(first - PRE_ROLL_SECONDS)) {
        Ok(source) => Reading::new(source, clips).run(),
        Err(e) => clips.iter().map(|_| Err(e.clone())).collect(),
    }
}

/// Frames and rate of `clip`, without decoding if the header tells.
pub(super) fn measure(input: Input, clip: &Clip) -> Result<(u64, u32), AudioError> {
    let name = input.name();
    let Some((frames, rate)) = Source::open_at(input, None)?.announced() else {
        let pcm = decode(input, std::slice::from_ref(clip)).remove(0)?;
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
enum State {
    /// No frame of it has been met.
    Ahead(Clip),
    Met(Window),
    Failed(AudioError),
}

/// One pass over a recording.
struct Reading<'i> {
    source: Source<'i>,
    states: Vec<State>,
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

impl<'i> Reading<'i> {
    fn new(source: Source<'i>, clips: &[Clip]) -> Self {
        let mut order: Vec<usize> = (0..clips.len()).collect();
        order.sort_by(|&a, &b| clips[a].offset.total_cmp(&clips[b].offset));
        let states = clips.iter().map(|c| State::Ahead(*c)).collect();
        Self { source, states, order, next: 0, open: Vec::new(), end: 0, rate: 0 }
    }

    fn run(mut self) -> Vec<Result<Pcm, AudioError>> {
        let failure = self.read().err();
        let (name, end, rate) = (self.source.name(), self.end, self.rate);
        let finish = |state| match (state, &failure) {
            (State::Failed(e), _) => Err(e),
            (State::Met(window), None) => window.finish(name, end),
            (State::Met(window), _) if window.is_complete() => window.finish(name, end),
            (_, Some(e)) => Err(e.clone()),
            (State::Ahead(_), None) if rate == 0 => Err(AudioError::NoSamples { path: name.into() }),
            (State::Ahead(clip), None) => Window::new(&clip, rate).finish(name, end),
        };
        self.states.into_iter().map(finish).collect()
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
        let (states, name) = (&mut self.states, self.source.name());
        self.open.retain(|&clip| {
            let State::Met(window) = &mut states[clip] else { return false };
            let pushed = window.push(block, name).map_err(|e| states[clip] = State::Failed(e));
            pushed.is_ok() && matches!(&states[clip], State::Met(window) if !window.is_complete())
        });
    }
}
