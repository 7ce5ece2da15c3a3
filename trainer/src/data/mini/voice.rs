//! The speakers: recorded syllables of gcin-voice, and espeak-ng.

use super::config::{MiniConfig, VoiceConfig};
use super::error::MiniError;
use super::phonetics::Syllable;
use super::prosody::{Prosody, rms};
use crate::data::audio::{self, SAMPLE_RATE};
use crate::data::draw::Draws;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A recording quieter than this peak is a mistake of the collection.
const SILENT_PEAK: f32 = 0.01;
/// Frames below this share of the loudest frame's level are no longer speech.
const TRIM_LEVEL: f64 = 0.06;
/// Samples per frame when trimming: 5 ms.
const TRIM_FRAME: usize = 80;

/// Someone who can say any sentence of the script.
pub enum Speaker {
    /// Joins recorded syllables.
    Recorded(Recordings),
    /// Calls espeak-ng.
    Espeak,
}

/// The syllables of one recorded speaker, trimmed and equally loud, each read when it is first said.
pub struct Recordings {
    directory: PathBuf,
    stem: String,
    clips: BTreeMap<Syllable, Vec<f32>>,
}

impl Speaker {
    /// Makes `voice` ready to speak.
    pub fn new(config: &MiniConfig, voice: &VoiceConfig) -> Result<Self, MiniError> {
        let Some(stem) = &voice.recorded else { return Ok(Self::Espeak) };
        let directory = config.recordings.clone();
        if !directory.is_dir() {
            return Err(MiniError::NoRecordings(directory));
        }
        Ok(Self::Recorded(Recordings { directory, stem: stem.clone(), clips: BTreeMap::new() }))
    }

    /// Says `reading` with `prosody`: 16 kHz, not yet levelled.
    pub fn say(
        &mut self,
        config: &MiniConfig,
        voice: &VoiceConfig,
        reading: &[Syllable],
        prosody: &Prosody,
        draws: &mut Draws,
    ) -> Result<Vec<f32>, MiniError> {
        match self {
            Self::Recorded(recordings) => {
                let pieces = recordings.clips(&voice.name, reading)?;
                Ok(prosody.speak(&pieces, f64::from(SAMPLE_RATE)))
            }
            Self::Espeak => {
                let (speech, rate_hz) = espeak(config, voice, reading, draws)?;
                Ok(prosody.speak(&[trim(&speech)], rate_hz))
            }
        }
    }
}

impl Recordings {
    /// The recordings of `reading`, syllable by syllable.
    fn clips(&mut self, speaker: &str, reading: &[Syllable]) -> Result<Vec<&[f32]>, MiniError> {
        for syllable in reading {
            if !self.clips.contains_key(syllable) {
                let clip = find(&self.directory, &self.stem, speaker, syllable)?;
                self.clips.insert(syllable.clone(), clip);
            }
        }
        Ok(reading.iter().filter_map(|syllable| self.clips.get(syllable).map(Vec::as_slice)).collect())
    }
}

/// The recording of a syllable, or of its base in the first other tone that was recorded.
fn find(directory: &Path, stem: &str, speaker: &str, syllable: &Syllable) -> Result<Vec<f32>, MiniError> {
    let missing = || MiniError::NoSyllable { speaker: speaker.into(), syllable: syllable.to_string() };
    let base = syllable.zhuyin().ok_or_else(missing)?;
    for tone in std::iter::once(syllable.tone).chain(1..=5) {
        // The collection writes no digit for the first tone and 1 for the neutral one.
        let suffix = ["", "2", "3", "4", "1"][usize::from(tone) - 1];
        let path = directory.join(format!("{base}{suffix}")).join(format!("{stem}.ogg"));
        if !path.is_file() {
            continue;
        }
        let clip = audio::load(&path, &audio::Clip::default())?;
        let clip: Vec<f32> = clip.into_iter().map(|x| f32::from(x) / 32768.0).collect();
        if clip.iter().fold(0.0f32, |peak, x| peak.max(x.abs())) >= SILENT_PEAK {
            let clip = trim(&clip);
            let gain = (0.1 / rms(clip).max(1e-9)) as f32;
            return Ok(clip.iter().map(|x| gain * x).collect());
        }
    }
    Err(missing())
}

/// Cuts off what is quiet before and after the speech.
fn trim(x: &[f32]) -> &[f32] {
    let levels: Vec<f64> = x.chunks(TRIM_FRAME).map(rms).collect();
    let threshold = TRIM_LEVEL * levels.iter().fold(0.0, |a: f64, b| a.max(*b));
    let first = levels.iter().position(|&l| l > threshold).unwrap_or(0);
    let last = levels.iter().rposition(|&l| l > threshold).unwrap_or(levels.len().saturating_sub(1));
    &x[first * TRIM_FRAME..((last + 1) * TRIM_FRAME).min(x.len())]
}

/// Speech of espeak-ng and its sample rate. The reading is given in pinyin: from characters, voice `cmn` says English letter names,
/// and heteronyms would be guessed.
fn espeak(
    config: &MiniConfig,
    voice: &VoiceConfig,
    reading: &[Syllable],
    draws: &mut Draws,
) -> Result<(Vec<f32>, f64), MiniError> {
    let name = format!("cmn-latn-pinyin+{}", voice.espeak.as_deref().unwrap_or_default());
    let text = reading.iter().map(Syllable::to_string).collect::<Vec<_>>().join(" ");
    let output = Command::new(&config.espeak)
        .args(["-v", &name, "--stdout", "-p"])
        .arg(format!("{:.0}", draws.spread(voice.pitch).clamp(0.0, 99.0)))
        .arg("-s")
        .arg(format!("{:.0}", draws.spread(voice.words_per_minute).clamp(80.0, 450.0)))
        .arg(&text)
        .output()
        .map_err(no_espeak(config))?;
    let failed = |message: String| MiniError::Espeak { voice: name.clone(), text: text.clone(), message };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed").into()));
    }
    parse_wav(&output.stdout).ok_or_else(|| failed("its output is not 16-bit mono WAV".into()))
}

fn no_espeak(config: &MiniConfig) -> impl FnOnce(std::io::Error) -> MiniError {
    |reason| MiniError::NoEspeak { program: config.espeak.display().to_string(), reason }
}

/// WAV as espeak-ng streams it: a header of 44 bytes whose lengths are unknown yet, then samples to the end.
fn parse_wav(bytes: &[u8]) -> Option<(Vec<f32>, f64)> {
    let header = bytes.get(..44).filter(|h| h.starts_with(b"RIFF") && &h[36..40] == b"data")?;
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let rate_hz = u32::from_le_bytes([header[24], header[25], header[26], header[27]]);
    if (word(22), word(34)) != (1, 16) || bytes.len() < 46 {
        return None;
    }
    let samples = bytes[44..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0);
    Some((samples.collect(), f64::from(rate_hz)))
}
