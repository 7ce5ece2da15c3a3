//! A recording, opened: container and codec by symphonia (Opus by libopus), one block of frames after the other.

use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, CODEC_ID_NULL_AUDIO};
use symphonia::core::errors::Error as Symphonia;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Time, TimeBase};

use super::opus::{GRANULE_RATE, Opus, to_16k};
use super::{AudioError, Input, SAMPLE_RATE, mp4};

/// Lossy codecs announce whole blocks; less than this missing is no truncation.
const BLOCK_SLACK_FRAMES: u64 = 4096;

/// What reads a recording's bytes.
trait Bytes: Read + Seek {}
impl<T: Read + Seek> Bytes for T {}

/// An opened recording.
pub(super) struct Source<'i> {
    input: Input<'i>,
    format: Box<dyn FormatReader + 'i>,
    decoder: Decoder,
    track: u32,
    time_base: Option<TimeBase>,
    /// Frames and rate by the header, without those skipped.
    announced: Option<(u64, u32)>,
    /// Decoded frames before the recording begins.
    skip: u64,
    /// Decoded frames from here on (counted from the recording's beginning) are not part of it.
    file_end: Option<u64>,
    /// Whether the header's length can be relied upon, and within how many frames.
    exact_within: Option<u64>,
    /// symphonia's short name of it.
    container: &'static str,
    /// Whether reading began in the middle: then what the header says of the whole cannot be checked.
    sought: bool,
    /// Decoded frames before the next packet, those skipped included; `None` before the first.
    position: Option<u64>,
    rate: u32,
}

/// What decodes packets.
enum Decoder {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<Opus>),
}

/// Where a block of frames lies.
pub(super) struct Decoded {
    pub(super) rate: u32,
    pub(super) channels: usize,
    /// The first frame's number in the recording.
    pub(super) start: u64,
}

impl<'i> Source<'i> {
    /// Opens `input` at `seconds`, or at its beginning if that is not given or not possible.
    pub(super) fn open_at(input: Input<'i>, seconds: Option<f64>) -> Result<Self, AudioError> {
        let mut source = Self::open(input)?;
        if let Some(seconds) = seconds {
            if source.seek(seconds) {
                source.sought = true;
            } else {
                // A failed seek leaves the reader anywhere.
                source = Self::open(input)?;
            }
        }
        Ok(source)
    }

    fn open(input: Input<'i>) -> Result<Self, AudioError> {
        let name = input.name();
        let unreadable = |source: io::Error| AudioError::unreadable(name, source);
        let unsupported = |reason: String| AudioError::Unsupported { path: name.into(), reason };
        let mut hint = Hint::new();
        if let Some(extension) = name.extension().and_then(|e| e.to_str()) {
            hint.with_extension(extension);
        }
        let stream = MediaSourceStream::new(media_source(input)?, Default::default());
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
        let decoder = Decoder::new(params).map_err(unsupported)?;
        let container = format.format_info().short_name;
        let exact_within = match container {
            "wave" | "flac" => Some(0),
            // Only an information tag makes an mp3 file's length more than a guess, and only it brings a delay.
            "mp3" if track.delay.is_none() => None,
            _ => Some(BLOCK_SLACK_FRAMES),
        };
        let announced = track.num_frames.zip(params.sample_rate.filter(|&r| r > 0));
        let (id, time_base, delay) = (track.id, track.time_base, pre_skip(track));
        let mut source = Self {
            input,
            format,
            decoder,
            track: id,
            time_base,
            announced,
            skip: 0,
            file_end: None,
            exact_within,
            container,
            sought: false,
            position: None,
            rate: 0,
        };
        if container == "isomp4" {
            source.apply_edit().map_err(unreadable)?;
            // The first and last AAC blocks hold frames that are not part of the recording.
            source.file_end = source.announced.map(|(frames, _)| frames);
        }
        if matches!(source.decoder, Decoder::Opus(_)) {
            source.skip = to_16k(delay);
            source.announced = announced.map(|(frames, _)| (to_16k(frames.saturating_sub(delay)), SAMPLE_RATE));
        }
        Ok(source)
    }

    /// What messages call the recording.
    pub(super) fn name(&self) -> &'i Path {
        self.input.name()
    }

    /// Frames and rate by the header.
    pub(super) fn announced(&self) -> Option<(u64, u32)> {
        self.announced
    }

    /// Narrows an MP4 file to what its edit list presents.
    fn apply_edit(&mut self) -> io::Result<()> {
        let Some((frames, rate)) = self.announced else { return Ok(()) };
        let Some(edit) = mp4::edit(&mut reader(self.input)?, self.track)? else { return Ok(()) };
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
        sought && self.decoder.reset()
    }

    /// Decodes the next block into `frames` (interleaved); `None` at the end, after a look at whether all was there.
    pub(super) fn next(&mut self, frames: &mut Vec<f32>) -> Result<Option<Decoded>, AudioError> {
        while let Some(packet) = self.packet()? {
            let (rate, channels) = match self.decoder.decode(&packet, frames) {
                Ok(spec) => spec,
                // The first frames after a cut of an mp3 stream refer to bytes that are gone; players skip them.
                Err(Symphonia::DecodeError(_)) if self.container == "mp3" => continue,
                Err(e) => return Err(self.damaged(&e.to_string())),
            };
            if frames.is_empty() || channels == 0 {
                continue;
            }
            let first = self.position.unwrap_or_else(|| self.frame_of(&packet, rate));
            let count = (frames.len() / channels) as u64;
            self.rate = rate;
            self.position = Some(first + count);
            let start = first.saturating_sub(self.skip);
            let stop = (first + count).saturating_sub(self.skip).min(self.file_end.unwrap_or(u64::MAX));
            if stop <= start {
                continue;
            }
            let before = self.skip.saturating_sub(first);
            frames.truncate((before + stop - start) as usize * channels);
            frames.drain(..before as usize * channels);
            return Ok(Some(Decoded { rate, channels, start }));
        }
        if !self.sought {
            self.check_whole()?;
        }
        Ok(None)
    }

    /// The track's next packet; `None` where there are no more.
    fn packet(&mut self) -> Result<Option<Packet>, AudioError> {
        loop {
            match self.format.next_packet() {
                Ok(Some(packet)) if packet.track_id != self.track => {}
                Ok(packet) => return Ok(packet),
                // Whether the end came too early is for `check_whole` to say.
                Err(Symphonia::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(Symphonia::IoError(e)) => return Err(AudioError::unreadable(self.name(), e)),
                Err(Symphonia::ResetRequired) => return Err(self.damaged("a second stream follows the first")),
                Err(e) => {
                    // Containers report a missing tail in many ways; the length tells.
                    self.check_whole()?;
                    return Err(self.damaged(&e.to_string()));
                }
            }
        }
    }

    /// The frame at which `packet` begins, those skipped included.
    fn frame_of(&self, packet: &Packet, rate: u32) -> u64 {
        let Some(base) = self.time_base else { return 0 };
        let ticks = i128::from(packet.pts.get().max(0));
        let frames = ticks * i128::from(base.numer.get()) * i128::from(rate) / i128::from(base.denom.get());
        u64::try_from(frames).unwrap_or(0)
    }

    /// Seconds of the recording read so far.
    fn seconds(&self) -> f64 {
        let frames = self.position.unwrap_or(0).saturating_sub(self.skip);
        frames as f64 / f64::from(self.rate.max(1))
    }

    fn damaged(&self, reason: &str) -> AudioError {
        AudioError::Damaged { path: self.name().into(), seconds: self.seconds(), reason: reason.into() }
    }

    /// After the recording was read from its first to its last packet: was it all there, and undamaged?
    fn check_whole(&mut self) -> Result<(), AudioError> {
        let found = self.seconds();
        let truncated = |reason: String| AudioError::Truncated { path: self.name().into(), found, reason };
        if let (Some((frames, rate)), Some(slack)) = (self.announced, self.exact_within) {
            let (announced, slack) = (frames as f64 / f64::from(rate), slack as f64 / f64::from(rate));
            if found + slack < announced {
                return Err(truncated(format!("its header announces {announced:.3} s")));
            }
        }
        if self.container == "ogg" && !last_ogg_page_is_complete(self.input).unwrap_or(true) {
            return Err(truncated("its last ogg page is incomplete".into()));
        }
        match self.decoder.matches_checksum() {
            false => Err(self.damaged("the samples do not match the file's checksum")),
            true => Ok(()),
        }
    }
}

impl Decoder {
    fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        if params.codec == CODEC_ID_NULL_AUDIO {
            return Err("the audio track's codec is unknown".into());
        }
        if params.codec == CODEC_ID_OPUS {
            return match params.channels.as_ref().map_or(0, |c| c.count()) {
                1 | 2 => Ok(Self::Opus(Box::new(Opus::new()?))),
                n => Err(format!("Opus in {n} channels")),
            };
        }
        let options = AudioDecoderOptions::default().verify(true);
        let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options);
        decoder.map(Self::Symphonia).map_err(|e| e.to_string())
    }

    /// Decodes `packet` into `frames`; its rate and channels.
    fn decode(&mut self, packet: &Packet, frames: &mut Vec<f32>) -> Result<(u32, usize), Symphonia> {
        match self {
            Self::Symphonia(decoder) => {
                let buffer = decoder.decode(packet)?;
                let spec = (buffer.spec().rate(), buffer.spec().channels().count());
                buffer.copy_to_vec_interleaved::<f32>(frames);
                Ok(spec)
            }
            Self::Opus(decoder) => {
                let decoded = decoder.decode(&packet.data, packet.trim_end.get(), frames);
                decoded.map_err(|e| Symphonia::IoError(io::Error::other(e)))?;
                Ok((SAMPLE_RATE, 1))
            }
        }
    }

    /// After the last packet: false if the recording carries a checksum and the samples do not match it.
    fn matches_checksum(&mut self) -> bool {
        match self {
            Self::Symphonia(decoder) => decoder.finalize().verify_ok != Some(false),
            Self::Opus(_) => true,
        }
    }

    /// Forgets what came before; false if it cannot.
    fn reset(&mut self) -> bool {
        match self {
            Self::Symphonia(decoder) => {
                decoder.reset();
                true
            }
            Self::Opus(decoder) => decoder.reset().is_ok(),
        }
    }
}

/// The frames at 48 kHz that an Ogg Opus stream begins with but does not present (RFC 7845 §4.2).
fn pre_skip(track: &Track) -> u64 {
    debug_assert!(GRANULE_RATE.is_multiple_of(SAMPLE_RATE));
    track.delay.map_or(0, u64::from)
}

/// The recording's bytes, for symphonia.
fn media_source<'i>(input: Input<'i>) -> Result<Box<dyn MediaSource + 'i>, AudioError> {
    let name = input.name();
    let len = match input {
        Input::Bytes { bytes, .. } => bytes.len() as u64,
        Input::File(path) => {
            let facts = std::fs::metadata(path).map_err(|e| AudioError::unreadable(name, e))?;
            if facts.is_dir() {
                return Err(AudioError::unreadable(name, ErrorKind::IsADirectory.into()));
            }
            facts.len()
        }
    };
    if len == 0 {
        return Err(AudioError::EmptyFile { path: name.into() });
    }
    match input {
        Input::Bytes { bytes, .. } => Ok(Box::new(Cursor::new(bytes))),
        Input::File(path) => {
            let file = File::open(path).map_err(|e| AudioError::unreadable(name, e))?;
            Ok(Box::new(file))
        }
    }
}

/// The recording's bytes, for a look of our own.
fn reader<'i>(input: Input<'i>) -> io::Result<Box<dyn Bytes + 'i>> {
    match input {
        Input::Bytes { bytes, .. } => Ok(Box::new(Cursor::new(bytes))),
        Input::File(path) => Ok(Box::new(File::open(path)?)),
    }
}

/// Whether an ogg file ends with a whole page (RFC 3533 §6): the segment table gives the length of its body.
fn last_ogg_page_is_complete(input: Input) -> io::Result<bool> {
    const LARGEST_PAGE: u64 = 27 + 255 + 255 * 255;
    let mut file = reader(input)?;
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(len.saturating_sub(LARGEST_PAGE)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(page) = tail.windows(4).rposition(|w| w == b"OggS").map(|at| &tail[at..]) else { return Ok(false) };
    let Some(&segments) = page.get(26) else { return Ok(false) };
    let table = 27..27 + usize::from(segments);
    let Some(lengths) = page.get(table.clone()) else { return Ok(false) };
    let body: usize = lengths.iter().map(|&l| usize::from(l)).sum();
    Ok(page.len() >= table.end + body)
}
