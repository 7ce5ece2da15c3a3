//! The corpus file (`configs/mini/corpus.toml`): what is said, who speaks, how each emotion sounds.

use super::error::MiniError;
use crate::config::{Describe, Loaded, Shape, load, section};
use crate::data::draw::Draws;
use crate::data::emotion::Emotion;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A number drawn anew for each utterance: `[mean, spread]`, uniform in mean ± spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread(pub f64, pub f64);

impl Describe for Spread {
    fn shape() -> Shape {
        <Vec<f64>>::shape()
    }
}

/// `[least, most]`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range(pub usize, pub usize);

impl Describe for Range {
    fn shape() -> Shape {
        <Vec<usize>>::shape()
    }
}

impl Draws {
    /// Uniform in `mean - spread ..= mean + spread`.
    pub fn spread(&mut self, Spread(mean, spread): Spread) -> f64 {
        mean + spread * (2.0 * self.uniform() - 1.0)
    }

    /// Uniform in `low..=high`.
    pub fn within(&mut self, Range(low, high): Range) -> usize {
        low + self.below((high + 1).saturating_sub(low))
    }
}

section! {
    /// Everything the miniature's texts and voices are made from.
    pub struct MiniConfig {
        /// Seed of everything except which sentences are held out.
        pub seed: u64,
        /// The sentence file.
        pub sentences: PathBuf,
        /// Which sentences are held out.
        pub split: SplitConfig,
        /// How much is made.
        pub counts: Counts,
        /// Where recorded syllables lie: one directory per syllable, named by its zhuyin and tone.
        pub recordings: PathBuf,
        /// The program that speaks the synthetic voices.
        pub espeak: PathBuf,
        /// Who speaks.
        pub voice: Vec<VoiceConfig>,
        /// Root-mean-square level of every utterance, in full scale; the same for all emotions.
        pub level: f64,
        /// Silence before and after an utterance, in milliseconds.
        pub margin_ms: Spread,
        /// White noise below the speech, in dB.
        pub noise_db: Spread,
        /// How the emotions sound.
        pub emotion: Emotions,
        /// Single syllables, words and random strings.
        pub words: WordsConfig,
        /// Text to train a small decoder on.
        pub text: TextConfig,
    }
}

section! {
    /// The held-out sentences depend on this section and the sentence file alone.
    pub struct SplitConfig {
        /// Seed of the choice; apart from `seed`, so that several corpora can share one split.
        pub seed: u64,
        /// How many sentences no training ever sees, at most one per key word.
        pub unseen_sentences: usize,
    }
}

section! {
    /// Utterances per part, and lines of text.
    pub struct Counts {
        /// Renditions of known sentences for training.
        pub train: usize,
        /// Renditions of known sentences for validation.
        pub valid: usize,
        /// Further renditions of known sentences.
        pub test_known: usize,
        /// Renditions of sentences seen in no training.
        pub test_unseen: usize,
        /// Pairs: one sentence and speaker in two emotions; half of the sentences known, half unseen.
        pub pairs: usize,
        /// Single syllables, words and random strings.
        pub words: usize,
        /// Lines of text for the decoder.
        pub text: usize,
    }
}

section! {
    /// A speaker: either recorded syllables or an espeak-ng voice.
    pub struct VoiceConfig {
        /// The speaker's name in the manifests.
        pub name: String,
        /// Recorded syllables: the file stem in each syllable's directory.
        pub recorded: Option<String> = None,
        /// espeak-ng: the variant of the pinyin voice, such as `f2`.
        pub espeak: Option<String> = None,
        /// espeak-ng: pitch, 0 to 99.
        pub pitch: Spread = Spread(50.0, 0.0),
        /// espeak-ng: words per minute.
        pub words_per_minute: Spread = Spread(175.0, 0.0),
        /// How often this speaker speaks, relative to the others.
        pub share: f64,
        /// Factor on the speed of this speaker's voice.
        pub speed: f64 = 1.0,
    }
}

section! {
    /// One way of speaking for each emotion.
    pub struct Emotions {
        /// How cheerful speech sounds.
        pub cheerful: ProsodyConfig,
        /// How fearful speech sounds.
        pub fearful: ProsodyConfig,
        /// How angry speech sounds.
        pub angry: ProsodyConfig,
        /// How sad speech sounds.
        pub sad: ProsodyConfig,
        /// How neutral speech sounds.
        pub neutral: ProsodyConfig,
    }
}

section! {
    /// The sound of one emotion.
    pub struct ProsodyConfig {
        /// Speed; tempo and pitch move together.
        pub speed: Spread,
        /// From the first to the last syllable the pitch rises by this, in semitones.
        pub rise: Spread,
        /// Each syllable is off that line by up to this, in semitones.
        pub jitter: Spread,
        /// Silence between recorded syllables, in milliseconds; negative: they overlap.
        pub gap_ms: Spread,
        /// Frequency at which the loudness trembles, in Hz.
        pub tremolo_hz: Spread = Spread::default(),
        /// How deep it trembles, 0 to 1.
        pub tremolo_depth: Spread = Spread::default(),
        /// Soft saturation: how far the average level drives it, 0 is none.
        pub drive: Spread = Spread::default(),
        /// Gain above about 1 kHz, in dB.
        pub tilt_db: Spread = Spread::default(),
    }
}

section! {
    /// Training material without meaning, so that a model must listen. Three kinds in turn: characters, words, random strings.
    pub struct WordsConfig {
        /// Characters in a random string.
        pub random_length: Range,
    }
}

section! {
    /// Stuttering text that a decoder learns to read: what a speech embedding looks like, but in characters.
    pub struct TextConfig {
        /// Prompt behind the context of which the target is the clean text.
        pub transcribe_prompt: String,
        /// Prompt behind the context of which the target is the response.
        pub respond_prompt: String,
        /// Share of lines that ask for a response.
        pub respond: f64,
        /// Share of lines with random characters instead of a sentence.
        pub random: f64,
        /// Share of the lines to transcribe that begin with an emotion, which is then without effect.
        pub marked: f64,
        /// Characters in a random string.
        pub random_length: Range,
        /// Times each character is said.
        pub repeat: Range,
        /// Filler characters before, between and after the characters.
        pub filler: Range,
        /// What fillers are drawn from.
        pub fillers: String,
        /// Probability that a repetition is some other character; the first is always right.
        pub substitute: f64,
    }
}

impl Emotions {
    /// How `emotion` sounds.
    pub fn get(&self, emotion: Emotion) -> &ProsodyConfig {
        match emotion {
            Emotion::Cheerful => &self.cheerful,
            Emotion::Fearful => &self.fearful,
            Emotion::Angry => &self.angry,
            Emotion::Sad => &self.sad,
            Emotion::Neutral => &self.neutral,
        }
    }
}

impl MiniConfig {
    /// Reads and checks a corpus file with its `--set` arguments.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, MiniError> {
        let loaded: Loaded<Self> = load(path, sets)?;
        loaded.config.check().map_err(|(key, problem)| loaded.invalid(&key, problem))?;
        Ok(loaded.config)
    }

    /// The first value that makes no sense: its key, and why.
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, problem: String| Err((key.to_string(), problem));
        if let Some(i) = self.voice.iter().position(|v| v.recorded.is_some() == v.espeak.is_some()) {
            return wrong(&format!("voice[{i}]"), "give either `recorded` or `espeak`".into());
        }
        if let Some(i) = self.voice.iter().position(|v| !(v.share >= 0.0 && v.speed > 0.0)) {
            return wrong(&format!("voice[{i}]"), "`share` must not be negative, `speed` must be positive".into());
        }
        if !self.voice.iter().any(|v| v.share > 0.0) {
            return wrong("voice", "somebody needs a `share` above 0".into());
        }
        if !(self.level > 0.0 && self.level < 0.3) {
            return wrong("level", format!("{} must lie between 0 and 0.3, or peaks are cut", self.level));
        }
        if self.split.unseen_sentences == 0 && self.counts.test_unseen + self.counts.pairs > 0 {
            return wrong("split.unseen_sentences", "`test_unseen` and `pairs` need held-out sentences".into());
        }
        for emotion in Emotion::ALL {
            let Spread(mean, spread) = self.emotion.get(emotion).speed;
            if !(mean - spread.abs() >= 0.25 && mean + spread.abs() <= 4.0) {
                return wrong(&format!("emotion.{emotion}.speed"), "must lie between 0.25 and 4".into());
            }
        }
        let ranges = [
            ("words.random_length", self.words.random_length, 1),
            ("text.random_length", self.text.random_length, 1),
            ("text.repeat", self.text.repeat, 1),
            ("text.filler", self.text.filler, 0),
        ];
        for (key, Range(low, high), least) in ranges {
            if low < least || high < low {
                return wrong(key, format!("must be [least, most], both at least {least}"));
            }
        }
        if self.text.fillers.is_empty() {
            return wrong("text.fillers", "give at least one character".into());
        }
        Ok(())
    }
}
