//! Speech for each text: whose voice, which backend, and whether what it gave is a recording of the text.

use super::azure;
use super::command::{self, Runner};
use super::config::{Backend, SpeechConfig};
use super::error::SynthError;
use super::http::Endpoint;
use super::pace::Failure;
use super::texts::Item;
use crate::data::audio::{self, Clip, SAMPLE_RATE};
use crate::data::draw::Draws;
use crate::data::emotion::Emotion;
use crate::data::wav;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// A recording may be longer than its text asks for by so many seconds, for margins.
const MARGIN_SECONDS: f64 = 3.0;
/// A WAV file's samples begin within so many bytes.
const HEADER_BYTES: u64 = 512;
/// A WAV header that announces so many bytes or more was sent before the length was known.
const UNKNOWN_LENGTH: u32 = 0x7fff_0000;
/// A recording that never gets this loud, of 32,768, is silence.
const SILENT_PEAK: u16 = 32;

/// What is to be spoken, and how.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The text's.
    pub id: &'a str,
    /// What is spoken.
    pub text: &'a str,
    /// How.
    pub emotion: Emotion,
    /// By whom; "" if neither texts nor configuration name voices.
    pub voice: &'a str,
    /// The backend's word for the emotion; "" for none.
    pub style: &'a str,
}

impl<'a> Question<'a> {
    /// About `item`. A voice that the texts do not name is drawn by seed and id.
    pub fn new(config: &'a SpeechConfig, item: &'a Item) -> Self {
        let (voices, style) = match config.backend {
            Backend::Azure => (&config.azure.voices, config.azure.style(item.emotion)),
            Backend::Command => (&config.command.voices, config.command.style(item.emotion)),
        };
        let drawn = || Draws::new(config.seed, &format!("synth.voice {}", item.id)).pick(voices).map(String::as_str);
        Self {
            id: &item.id,
            text: item.spoken.as_deref().unwrap_or(&item.text),
            emotion: item.emotion,
            voice: item.voice.as_deref().or_else(drawn).unwrap_or_default(),
            style,
        }
    }

    /// Everything that decides the recording.
    pub fn asked(&self, config: &SpeechConfig) -> String {
        match config.backend {
            Backend::Azure => format!("azure\n{}\n{}", config.azure.output_format, azure::ssml(&config.azure, self)),
            Backend::Command => {
                let arguments = command::arguments(&config.command, self, "{out}", "{folder}");
                format!("command\n{arguments:?}\n{self:?}")
            }
        }
    }

    /// Characters to be paid for.
    pub fn billed(&self, config: &SpeechConfig) -> u64 {
        match config.backend {
            Backend::Azure => azure::billed(self),
            Backend::Command => 0,
        }
    }
}

/// What one thread speaks with.
pub enum Speaker<'a> {
    /// All threads share one.
    Azure(&'a Endpoint<'a>),
    /// Each thread has its own.
    Command(Runner<'a>),
}

impl Speaker<'_> {
    /// Has `question` spoken once into `scratch`, checks what came, and puts it to `to` as 16 kHz mono WAV: its length in samples. `scratch` and
    /// its `.done.wav` are written over.
    pub fn record(
        &mut self,
        config: &SpeechConfig,
        question: &Question<'_>,
        scratch: &Path,
        to: &Path,
    ) -> Result<u64, Failure> {
        let io = |action, path| move |e| Failure::Fatal(SynthError::io(action, path)(e));
        if scratch.exists() {
            std::fs::remove_file(scratch).map_err(io("remove", scratch))?;
        }
        match self {
            Self::Azure(endpoint) => azure::speak(endpoint, &config.azure, question, scratch)?,
            Self::Command(runner) => runner.speak(question, scratch)?,
        }
        settle_length(scratch).map_err(io("write", scratch))?;
        let speech = check(config, question, scratch).map_err(|reason| Failure::Again(reason, None))?;
        let whole = scratch.with_extension("done.wav");
        wav::write(&whole, &speech).map_err(io("write", &whole))?;
        std::fs::rename(&whole, to).map_err(io("rename", &whole))?;
        Ok(speech.len() as u64)
    }
}

/// Writes the true lengths into a WAV header that was sent before they were known: 0, or about as much as fits.
fn settle_length(path: &Path) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut header = Vec::new();
    Read::by_ref(&mut file).take(HEADER_BYTES).read_to_end(&mut header)?;
    let Some(data) = header.windows(4).position(|w| w == b"data").filter(|_| header.starts_with(b"RIFF")) else {
        return Ok(());
    };
    let Some(&[a, b, c, d]) = header.get(data + 4..data + 8) else { return Ok(()) };
    let length = u32::from_le_bytes([a, b, c, d]);
    let true_length = file.metadata()?.len().saturating_sub(data as u64 + 8);
    if (1..UNKNOWN_LENGTH).contains(&length) || true_length == 0 {
        return Ok(());
    }
    for (at, length) in [(4, true_length + data as u64), (data as u64 + 4, true_length)] {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes())?;
    }
    Ok(())
}

/// The samples of the recording at `path`, if it can be one of `question`.
fn check(config: &SpeechConfig, question: &Question<'_>, path: &Path) -> Result<Vec<i16>, String> {
    let characters = question.text.chars().count() as f64;
    let longest = MARGIN_SECONDS + config.max_seconds_per_character * characters;
    let clip = Clip { max_seconds: Some(longest), ..Clip::default() };
    let speech = audio::load(path, &clip).map_err(|e| {
        let said = e.to_string();
        format!(
            "what it gave is no recording: {}",
            said.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&said)
        )
    })?;
    let seconds = speech.len() as f64 / f64::from(SAMPLE_RATE);
    if seconds < config.min_seconds_per_character * characters {
        return Err(format!("its recording of {characters} characters has only {seconds:.3} s"));
    }
    match speech.iter().any(|x| x.unsigned_abs() >= SILENT_PEAK) {
        true => Ok(speech),
        false => Err("its recording is silent".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lengths_unknown_when_the_header_was_sent_are_settled_and_others_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wav");
        let samples: Vec<i16> = (0..4000).map(|n| (n % 100) * 50).collect();
        wav::write(&path, &samples).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 0x7fff_f000, u32::MAX] {
            let mut streamed = whole.clone();
            streamed[4..8].copy_from_slice(&length.to_le_bytes());
            streamed[40..44].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&path, &streamed).unwrap();
            settle_length(&path).unwrap();
            assert!(std::fs::read(&path).unwrap() == whole, "{length}");
            assert_eq!(audio::load(&path, &Clip::default()).unwrap(), samples);
        }
        for other in [&whole[..2000], b"RIFF", b"", b"ID3 no data at all", b"RIFF1234WAVEdata", &whole[..42]] {
            std::fs::write(&path, other).unwrap();
            settle_length(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), other);
        }
    }
}
