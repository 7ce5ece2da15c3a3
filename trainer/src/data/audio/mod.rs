//! Any recording → mono 16 kHz i16: decoding by symphonia and libopus, resampling by rubato.
//!
//! The container is recognised by its content; a file's name only breaks ties. Channels are averaged. A 16 kHz mono
//! 16-bit file comes out bit for bit.

mod decode;
mod mp4;
mod opus;
mod resample;
mod source;
mod speed;
mod window;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use speed::SpeedChanger;

/// The sample rate everything downstream works at, in Hz.
pub const SAMPLE_RATE: u32 = 16_000;

/// Which part of a file to read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clip {
    /// Where it begins, in seconds from the start of the file.
    pub offset: f64,
    /// How long it is, in seconds; to the end of the file if `None`.
    pub duration: Option<f64>,
    /// More than so many seconds is an error, found without decoding the rest.
    pub max_seconds: Option<f64>,
}

/// Where a recording's bytes are.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// In a file of their own.
    File(&'a Path),
    /// In memory, as those of an archive's member.
    Bytes {
        /// What messages call it, and whose extension breaks ties between formats.
        name: &'a Path,
        /// All of it.
        bytes: &'a [u8],
    },
}

impl<'a> Input<'a> {
    fn name(self) -> &'a Path {
        match self {
            Self::File(path) => path,
            Self::Bytes { name, .. } => name,
        }
    }
}

/// Why a recording cannot be used. Every message names the file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AudioError {
    /// The operating system does not give us the file.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// A file of zero bytes.
    #[error("{path}: the file is empty (0 bytes)")]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// Not audio, or a codec that is not built in.
    #[error("{path}: not decodable as wav, flac, ogg (vorbis, opus), mp3 or m4a (aac, alac): {reason}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// A container without samples.
    #[error("{path}: holds no audio samples")]
    NoSamples {
        /// The file.
        path: PathBuf,
    },
    /// The file ends too early.
    #[error("{path}: truncated: it ends after {found:.3} s, but {reason}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Seconds there are.
        found: f64,
        /// How that is known.
        reason: String,
    },
    /// Bytes that do not decode.
    #[error("{path}: damaged at {seconds:.3} s: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, from the start of the file.
        seconds: f64,
        /// What the decoder said.
        reason: String,
    },
    /// The clip asked for lies (partly) after the end.
    #[error("{path}: the clip {offset:.3} s + {duration:.3} s lies outside the file, which ends at {end:.3} s")]
    OutsideFile {
        /// The file.
        path: PathBuf,
        /// Where the clip begins.
        offset: f64,
        /// How long it is.
        duration: f64,
        /// Where the file ends.
        end: f64,
    },
    /// Longer than allowed.
    #[error("{path}: longer than the allowed {max_seconds} s")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// What is allowed.
        max_seconds: f64,
    },
    /// A float recording with NaN or infinity in it.
    #[error("{path}: holds samples that are not finite numbers")]
    NotFinite {
        /// The file.
        path: PathBuf,
    },
}

impl AudioError {
    fn unreadable(path: &Path, source: std::io::Error) -> Self {
        Self::Unreadable { path: path.into(), source: Arc::new(source) }
    }
}

/// Reads `clip` of the recording at `path` as 16 kHz mono.
///
/// The result has `ceil(frames * 16000 / rate)` samples, aligned with the input: the resampler's delay is removed.
pub fn load(path: &Path, clip: &Clip) -> Result<Vec<i16>, AudioError> {
    cut(Input::File(path), std::slice::from_ref(clip)).remove(0)
}

/// Reads several clips of one recording, each as [`load`] does, in one pass over it. They may come in any order and overlap;
/// the results are in the order of `clips`. What is wrong with the recording spoils the clips it touches only.
pub fn cut(input: Input, clips: &[Clip]) -> Vec<Result<Vec<i16>, AudioError>> {
    let finish = |pcm: window::Pcm| {
        if pcm.samples.iter().any(|x| !x.is_finite()) {
            return Err(AudioError::NotFinite { path: input.name().into() });
        }
        let samples = resample::to_16k(pcm.samples, pcm.rate)
            .map_err(|reason| AudioError::Unsupported { path: input.name().into(), reason })?;
        Ok(samples.into_iter().map(to_i16).collect())
    };
    decode::decode(input, clips, &finish)
}

/// The number of 16 kHz samples of `clip` of the recording at `path`, from the header where it tells, else by decoding.
/// It serves for planning: damage in the body of the file is only found by [`load`], and an mp3 file without an
/// information tag is estimated from its size.
pub fn probe(path: &Path, clip: &Clip) -> Result<u64, AudioError> {
    let (frames, rate) = decode::measure(Input::File(path), clip)?;
    Ok(resample::expected_len(frames, rate))
}

/// 16 kHz samples that `frames` frames at `rate` Hz become: `ceil(frames * 16000 / rate)`.
pub fn len_at_rate(frames: u64, rate: u32) -> u64 {
    resample::expected_len(frames, rate)
}

fn to_i16(x: f32) -> i16 {
    (x * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16
}
