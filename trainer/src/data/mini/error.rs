//! What can go wrong while a corpus is made; each message says what to do.

use std::path::{Path, PathBuf};

/// Why no corpus was made.
#[derive(Debug, thiserror::Error)]
pub enum MiniError {
    /// A corpus or sentence file that does not parse, or says something impossible.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The sentences do not allow the split asked for.
    #[error("only {found} of {wanted} sentences can be held out: at most one per key word, all its characters known")]
    Split {
        /// `split.unseen_sentences`.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// A file or directory that could not be read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The output directory has something in it.
    #[error("{path} is not empty: name a new directory, or remove it first", path = .0.display())]
    NotEmpty(PathBuf),
    /// The recorded syllables are not installed.
    #[error("no recorded syllables in {path}: install them with `apt-get install gcin-voice`", path = .0.display())]
    NoRecordings(PathBuf),
    /// espeak-ng is not installed.
    #[error("cannot run {program}: {reason}; install it with `apt-get install espeak-ng`")]
    NoEspeak {
        /// The program that was called.
        program: String,
        /// Why it did not start.
        reason: std::io::Error,
    },
    /// espeak-ng ran and failed.
    #[error("espeak-ng voice {voice} did not speak `{text}`: {message}")]
    Espeak {
        /// The voice asked for.
        voice: String,
        /// The pinyin asked for.
        text: String,
        /// What it said.
        message: String,
    },
    /// A voice the configuration does not have.
    #[error("no voice is called `{name}`; there are {known}")]
    Voice {
        /// What was asked for.
        name: String,
        /// The voices' names.
        known: String,
    },
    /// A text that cannot be read aloud.
    #[error("`{text}` is neither Chinese characters nor pinyin with tone digits such as `ni3 hao3`")]
    Reading {
        /// The text.
        text: String,
    },
    /// A syllable that no recording of a speaker has in any tone.
    #[error("speaker {speaker} has no recording of {syllable} in any tone: change the sentence or its reading")]
    NoSyllable {
        /// The speaker.
        speaker: String,
        /// The syllable, in pinyin.
        syllable: String,
    },
    /// A manifest that cannot be used.
    #[error(transparent)]
    Manifest(#[from] crate::data::manifest::ManifestError),
    /// A recording that cannot be decoded.
    #[error(transparent)]
    Audio(#[from] crate::data::audio::AudioError),
}

impl MiniError {
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.into(), source }
    }
}
