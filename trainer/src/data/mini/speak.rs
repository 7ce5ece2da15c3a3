//! The miniature's voices: text, emotion, voice and id → speech. What comes out depends on these and the configuration alone.

use super::config::MiniConfig;
use super::error::MiniError;
use super::phonetics::Syllable;
use super::prosody::{self, Prosody};
use super::script::Script;
use super::voice::Speaker;
use crate::data::draw::Draws;
use crate::data::emotion::Emotion;
use std::path::PathBuf;

/// What is to be spoken.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What makes this rendition differ from others of the same words.
    pub id: String,
    /// Chinese characters, or pinyin syllables with spaces between.
    pub text: String,
    /// How it is spoken.
    pub emotion: Emotion,
    /// The voice's name.
    pub voice: String,
}

/// One line of `echat mini speak --jobs`: a job and where its recording goes. Other keys are ignored.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct JobLine {
    /// See [`Job::id`].
    pub id: String,
    /// See [`Job::text`].
    pub text: String,
    /// The emotion's name.
    pub emotion: String,
    /// See [`Job::voice`].
    pub voice: String,
    /// The file to write: WAV, 16 kHz, mono.
    pub out: PathBuf,
}

/// All voices of a configuration, ready to speak.
pub struct Voices<'a> {
    config: &'a MiniConfig,
    script: Script,
    speakers: Vec<Speaker>,
}

impl<'a> Voices<'a> {
    /// Reads the sentences (they say how characters are read); recordings are read when first needed.
    pub fn new(config: &'a MiniConfig) -> Result<Self, MiniError> {
        let script = Script::load(&config.sentences)?;
        let speakers = config.voice.iter().map(|voice| Speaker::new(config, voice)).collect::<Result<_, _>>()?;
        Ok(Self { config, script, speakers })
    }

    /// Speaks: 16 kHz mono.
    pub fn say(&mut self, job: &Job) -> Result<Vec<i16>, MiniError> {
        let voices = &self.config.voice;
        let unknown = || {
            let known = voices.iter().map(|voice| voice.name.as_str()).collect::<Vec<_>>().join(", ");
            MiniError::Voice { name: job.voice.clone(), known }
        };
        let index = voices.iter().position(|voice| voice.name == job.voice).ok_or_else(unknown)?;
        let (voice, reading) = (&voices[index], self.reading(&job.text)?);
        let mut draws = Draws::new(self.config.seed, &job.id);
        let prosody = Prosody::draw(self.config.emotion.get(job.emotion), voice.speed, reading.len(), &mut draws);
        let speech = self.speakers[index].say(self.config, voice, &reading, &prosody, &mut draws)?;
        Ok(prosody::finish(&speech, self.config, &mut draws))
    }

    /// The syllables of `text`: itself if it is pinyin, a sentence's if it is one, else its characters'.
    fn reading(&self, text: &str) -> Result<Vec<Syllable>, MiniError> {
        let pinyin: Option<Vec<Syllable>> = text.split_whitespace().map(Syllable::parse).collect();
        let sentence = || self.script.sentences.iter().find(|s| s.text == text).map(|s| s.reading.clone());
        let characters = || text.chars().map(|c| self.script.reading(c)).collect();
        let reading = pinyin.or_else(sentence).or_else(characters).filter(|reading| !reading.is_empty());
        reading.ok_or_else(|| MiniError::Reading { text: text.into() })
    }
}
