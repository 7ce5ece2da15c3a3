//! A clip of a file → mono f32 at the file's own rate.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions, CODEC_ID_NULL_AUDIO};
use symphonia::core::errors::Error as Symphonia;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Time, TimeBase};

use super::{AudioError, Clip, mp4};

/// Mono samples and their rate in Hz.
pub(super) struct Pcm {
    pub(super) samples: Vec<f32>,
    pub(super) rate: u32,
}

/// A seek lands this much earlier than asked, so that codecs which look back (mp3, aac, vorbis) have warmed up.
const PRE_ROLL_SECONDS: f64 = 0.5;
/// Manifests round durations: a clip may end so much after the file does, in seconds and as a share.
const CLIP_SLACK_SECONDS: f64 = 0.1;
const CLIP_SLACK_SHARE: f64 = 0.01;
/// Lossy codecs announce whole blocks; less than this missing is no truncation.
const BLOCK_SLACK_FRAMES: u64 = 4096;

/// An opened file, before any packet is read.
struct Source<'p> {
    path: &'p Path,
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    time_base: Option<TimeBase>,
    /// Frames and rate by the header, without those skipped.
    announced: Option<(u64, u32)>,
    /// Decoded frames before the recording begins.
    skip: u64,
    /// Whether the header's length can be relied upon, and within how many frames.
    exact_within: Option<u64>,
    /// symphonia's short name of it.
    container: &'static str,
}

/// Decodes `clip` of the file at `path`.
pub(super) fn decode(path: &Path, clip: &Clip) -> Result<Pcm, AudioError> {
    let mut source = Source::open(path)?;
    let sought = clip.offset > 2.0 * PRE_ROLL_SECONDS && source.seek(clip.offset - PRE_ROLL_SECONDS);
    if !sought && clip.offset > 2.0 * PRE_ROLL_SECONDS {
        // A failed seek leaves the reader anywhere: begin again and decode up to the clip.
        source = Source::open(path)?;
    }
    let mut window = Window::new(clip);
    if source.container == "isomp4" {
        // The first and last AAC blocks hold frames that are not part of the recording.
        window.skip = source.skip;
        window.file_end = source.announced.map(|(frames, _)| frames);
    }
    let ended = source.fill(&mut window)?;
    if ended && !sought {
        source.check_whole(&window)?;
    }
    window.finish(path, clip)
}

/// Frames and rate of `clip`, without decoding if the header tells.
pub(super) fn measure(path: &Path, clip: &Clip) -> Result<(u64, u32), AudioError> {
    let Some((frames, rate)) = Source::open(path)?.announced else {
        let pcm = decode(path, clip)?;
        return Ok((pcm.samples.len() as u64, pcm.rate));
    };
    let (start, end) = bounds(clip, rate);
    let stop = end.unwrap_or(frames).min(frames);
    check_clip(path, clip, frames, rate)?;
    let kept = stop.saturating_sub(start);
    match clip.max_seconds {
        Some(max_seconds) if kept as f64 > max_seconds * f64::from(rate) => {
            Err(AudioError::TooLong { path: path.into(), max_seconds })
        }
        _ => Ok((kept, rate)),
    }
}

/// First frame and end of `clip` at `rate`.
fn bounds(clip: &Clip, rate: u32) -> (u64, Option<u64>) {
    let frame = |seconds: f64| (seconds * f64::from(rate)).round() as u64;
    let start = frame(clip.offset);
    (start, clip.duration.map(|d| start.saturating_add(frame(d))))
}

/// Errors if `clip` is not inside a file of `frames` frames.
fn check_clip(path: &Path, clip: &Clip, frames: u64, rate: u32) -> Result<(), AudioError> {
    if frames == 0 {
        return Err(AudioError::NoSamples { path: path.into() });
    }
    let end = frames as f64 / f64::from(rate);
    let duration = clip.duration.unwrap_or(0.0);
    let slack = CLIP_SLACK_SECONDS.max(CLIP_SLACK_SHARE * duration).min(0.5 * duration);
    let (start, _) = bounds(clip, rate);
    if start >= frames || clip.offset + duration > end + slack {
        return Err(AudioError::OutsideFile { path: path.into(), offset: clip.offset, duration, end });
    }
    Ok(())
}

impl<'p> Source<'p> {
    fn open(path: &'p Path) -> Result<Self, AudioError> {
        let unreadable = |source| AudioError::Unreadable { path: path.into(), source };
        let unsupported = |reason: String| AudioError::Unsupported { path: path.into(), reason };
        let file = File::open(path).map_err(unreadable)?;
        let facts = file.metadata().map_err(unreadable)?;
        if facts.is_dir() {
            return Err(unreadable(ErrorKind::IsADirectory.into()));
        }
        if facts.len() == 0 {
            return Err(AudioError::EmptyFile { path: path.into() });
        }
        let mut hint = Hint::new();
        if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
            hint.with_extension(extension);
        }
        let stream = MediaSourceStream::new(Box::new(file), Default::default());
        let format = symphonia::default::get_probe()
            .probe(&hint, stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|e| match e {
                Symphonia::IoError(e) if e.kind() != ErrorKind::UnexpectedEof => unreadable(e),
                Symphonia::IoError(_) => unsupported("no known format found".into()),
                e => unsupported(e.to_string()),
            })?;
        let track = format.default_track(TrackType::Audio).or_else(|| format.first_track(TrackType::Audio));
        let track = track.ok_or_else(|| unsupported("no audio track".into()))?;
        let params = track.codec_params.as_ref().and_then(|p| p.audio());
        let params = params.ok_or_else(|| unsupported("the audio track's codec is unknown".into()))?;
        if params.codec == CODEC_ID_NULL_AUDIO {
            return Err(unsupported("the audio track's codec is unknown".into()));
        }
        let options = AudioDecoderOptions::default().verify(true);
        let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options);
        let decoder = decoder.map_err(|e| unsupported(e.to_string()))?;
        let container = format.format_info().short_name;
        let exact_within = match container {
            "wave" | "flac" => Some(0),
            // Only an information tag makes an mp3 file's length more than a guess, and only it brings a delay.
            "mp3" if track.delay.is_none() => None,
            _ => Some(BLOCK_SLACK_FRAMES),
        };
        let announced = track.num_frames.zip(params.sample_rate.filter(|&r| r > 0));
        let (track, time_base) = (track.id, track.time_base);
        let mut source = Self { path, decoder, track, time_base, announced, skip: 0, exact_within, container, format };
        if container == "isomp4" {
            source.apply_edit().map_err(unreadable)?;
        }
        Ok(source)
    }

    /// Narrows an MP4 file to what its edit list presents.
    fn apply_edit(&mut self) -> std::io::Result<()> {
        let (Some((frames, rate)), Some(edit)) = (self.announced, mp4::edit(self.path, self.track)?) else {
            return Ok(());
        };
        // `announced` is there only if the track's timescale is its sample rate.
        self.skip = edit.start.min(frames);
        let mut kept = frames - self.skip;
        // The edit's length is as coarse as the movie's timescale; within that the track's own end is the better one.
        let (length, scale) = (u128::from(edit.duration) * u128::from(rate), u128::from(edit.movie_timescale));
        if length > 0 && u128::from(kept) * scale > length + u128::from(rate) {
            kept = u64::try_from(length / scale).unwrap_or(kept);
        }
        self.announced = Some((kept, rate));
        Ok(())
    }

    /// Moves to `seconds` or a little before; false if that was not possible.
    fn seek(&mut self, seconds: f64) -> bool {
        let (Some(time), Some(_)) = (Time::try_from_secs_f64(seconds), self.time_base) else { return false };
        let to = SeekTo::Time { time, track_id: Some(self.track) };
        let sought = self.format.seek(SeekMode::Accurate, to).is_ok();
        self.decoder.reset();
        sought
    }

    /// Decodes until the window is full (false) or the file ends (true).
    fn fill(&mut self, window: &mut Window) -> Result<bool, AudioError> {
        let mut frames = Vec::new();
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(true),
                // Whether the end came too early is for `check_whole` to say.
                Err(Symphonia::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => return Ok(true),
                Err(Symphonia::IoError(source)) => {
                    return Err(AudioError::Unreadable { path: self.path.into(), source });
                }
                Err(Symphonia::ResetRequired) => return Err(self.damaged(window, "a second stream follows the first")),
                Err(e) => {
                    // Containers report a missing tail in many ways; the length tells.
                    self.check_whole(window)?;
                    return Err(self.damaged(window, &e.to_string()));
                }
            };
            if packet.track_id != self.track {
                continue;
            }
            let spec = match self.decoder.decode(&packet) {
                Ok(buffer) => {
                    let spec = (buffer.spec().rate(), buffer.spec().channels().count());
                    buffer.copy_to_vec_interleaved::<f32>(&mut frames);
                    spec
                }
                // The first frames after a cut of an mp3 stream refer to bytes that are gone; players skip them.
                Err(Symphonia::DecodeError(_)) if self.container == "mp3" => continue,
                Err(e) => return Err(self.damaged(window, &e.to_string())),
            };
            if frames.is_empty() {
                continue;
            }
            if window.frames.is_empty() && window.position == 0 {
                window.position = self.position(&packet, spec.0);
            }
            if !window.push(&frames, spec, self.path)? {
                return Ok(false);
            }
        }
    }

    /// The frame at which `packet` begins.
    fn position(&self, packet: &Packet, rate: u32) -> u64 {
        let Some(base) = self.time_base else { return 0 };
        let ticks = i128::from(packet.pts.get().max(0));
        let frames = ticks * i128::from(base.numer.get()) * i128::from(rate) / i128::from(base.denom.get());
        u64::try_from(frames).unwrap_or(0)
    }

    fn damaged(&self, window: &Window, reason: &str) -> AudioError {
        let seconds = window.end() as f64 / f64::from(window.rate.max(1));
        AudioError::Damaged { path: self.path.into(), seconds, reason: reason.into() }
    }

    /// After the file was read from its first to its last packet: was it all there, and undamaged?
    fn check_whole(&mut self, window: &Window) -> Result<(), AudioError> {
        let found = window.end() as f64 / f64::from(window.rate.max(1));
        let truncated = |reason: String| AudioError::Truncated { path: self.path.into(), found, reason };
        if let (Some((frames, rate)), Some(slack)) = (self.announced, self.exact_within) {
            let (announced, slack) = (frames as f64 / f64::from(rate), slack as f64 / f64::from(rate));
            if found + slack < announced {
                return Err(truncated(format!("its header announces {announced:.3} s")));
            }
        }
        if self.container == "ogg" && !last_ogg_page_is_complete(self.path).unwrap_or(true) {
            return Err(truncated("its last ogg page is incomplete".into()));
        }
        match self.decoder.finalize().verify_ok {
            Some(false) => Err(self.damaged(window, "the samples do not match the file's checksum")),
            _ => Ok(()),
        }
    }
}

/// Whether an ogg file ends with a whole page (RFC 3533 §6): the segment table gives the length of its body.
fn last_ogg_page_is_complete(path: &Path) -> std::io::Result<bool> {
    const LARGEST_PAGE: i64 = 27 + 255 + 255 * 255;
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::End(-LARGEST_PAGE.min(i64::try_from(len).unwrap_or(LARGEST_PAGE))))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(page) = tail.windows(4).rposition(|w| w == b"OggS").map(|at| &tail[at..]) else { return Ok(false) };
    let Some(&segments) = page.get(26) else { return Ok(false) };
    let table = 27..27 + usize::from(segments);
    let Some(lengths) = page.get(table.clone()) else { return Ok(false) };
    let body: usize = lengths.iter().map(|&l| usize::from(l)).sum();
    Ok(page.len() >= table.end + body)
}

/// Collects the frames of a clip out of what is decoded.
struct Window {
    clip: Clip,
    rate: u32,
    start: u64,
    stop: Option<u64>,
    /// Decoded frames before the recording begins; `start` and `stop` count from there, as the clip does.
    skip: u64,
    /// Frames from here on (counted so too) are not part of the recording.
    file_end: Option<u64>,
    /// How many frames are kept before it is an error.
    limit: u64,
    /// Which decoded frame is pushed next.
    position: u64,
    frames: Vec<f32>,
}

impl Window {
    fn new(clip: &Clip) -> Self {
        Self {
            clip: *clip,
            rate: 0,
            start: 0,
            stop: None,
            skip: 0,
            file_end: None,
            limit: u64::MAX,
            position: 0,
            frames: Vec::new(),
        }
    }

    /// How far into the recording it was read.
    fn end(&self) -> u64 {
        self.position.saturating_sub(self.skip)
    }

    /// Takes interleaved frames; false once the clip is complete.
    fn push(&mut self, interleaved: &[f32], (rate, channels): (u32, usize), path: &Path) -> Result<bool, AudioError> {
        if self.rate == 0 {
            self.rate = rate;
            (self.start, self.stop) = bounds(&self.clip, rate);
            self.stop = [self.stop, self.file_end].into_iter().flatten().min();
            self.limit = self.clip.max_seconds.map_or(u64::MAX, |s| (s * f64::from(rate)) as u64);
        }
        if rate != self.rate || channels == 0 {
            return Err(AudioError::Unsupported { path: path.into(), reason: "the sample rate changes midway".into() });
        }
        let count = (interleaved.len() / channels) as u64;
        let within = |frame: u64| frame.saturating_add(self.skip).saturating_sub(self.position).min(count);
        let first = within(self.start);
        let last = self.stop.map_or(count, within).max(first);
        let chosen = &interleaved[first as usize * channels..last as usize * channels];
        self.frames.extend(chosen.chunks_exact(channels).map(|frame| match frame {
            [x] => *x,
            _ => frame.iter().sum::<f32>() / channels as f32,
        }));
        self.position += count;
        if self.frames.len() as u64 > self.limit {
            let max_seconds = self.clip.max_seconds.unwrap_or_default();
            return Err(AudioError::TooLong { path: path.into(), max_seconds });
        }
        Ok(self.stop.is_none_or(|stop| self.end() < stop))
    }

    fn finish(self, path: &Path, clip: &Clip) -> Result<Pcm, AudioError> {
        if self.rate == 0 {
            return Err(AudioError::NoSamples { path: path.into() });
        }
        let end = self.file_end.map_or(self.end(), |end| end.min(self.end()));
        check_clip(path, clip, end, self.rate)?;
        if self.frames.is_empty() {
            return Err(AudioError::NoSamples { path: path.into() });
        }
        Ok(Pcm { samples: self.frames, rate: self.rate })
    }
}
