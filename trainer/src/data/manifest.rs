//! JSONL manifests: one utterance a line.
//!
//! | key | |
//! |---|---|
//! | `audio_filepath` | the recording; a relative path is relative to the manifest's folder |
//! | `text` | what is said (required) |
//! | `offset`, `duration` | in seconds: the part of the recording that is meant |
//! | `id` | defaults to the recording's file stem, `-` and the line number |
//! | `response` | the answer to be given |
//! | `emotion` | cheerful, fearful, angry, sad or neutral |
//! | `speaker` | who speaks |
//! | `context` | text-only lines (no `audio_filepath`): embedded where the speech would stand |
//!
//! Other keys are ignored, as manifests of other tools bring their own; so are empty lines.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::audio::Clip;
use super::emotion::{Emotion, UnknownEmotion};

/// One line of a manifest, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Unique in its manifest.
    pub id: String,
    /// Where the speech is; `None` for a text-only line.
    pub audio: Option<AudioRef>,
    /// What is said.
    pub text: String,
    /// The answer to be given.
    pub response: Option<String>,
    /// How it is said.
    pub emotion: Option<Emotion>,
    /// Who speaks.
    pub speaker: Option<String>,
    /// What stands in place of speech in a text-only line.
    pub context: Option<String>,
    /// The line in the manifest, from 1.
    pub line: usize,
}

/// A part of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioRef {
    /// The file.
    pub path: PathBuf,
    /// Seconds from the start of the file.
    pub offset: f64,
    /// Seconds; to the end of the file if `None`.
    pub duration: Option<f64>,
}

impl AudioRef {
    /// What to ask the decoder for.
    pub fn clip(&self, max_seconds: Option<f64>) -> Clip {
        Clip { offset: self.offset, duration: self.duration, max_seconds }
    }
}

/// What is wrong with a manifest, and where.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be opened or read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The manifest.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line that is not the JSON object we expect.
    #[error("{path}:{line}: {reason}")]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// An emotion that is none of the five.
    #[error("{path}:{line}: {source}")]
    Emotion {
        /// The manifest.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The name.
        source: UnknownEmotion,
    },
    /// `offset` or `duration` that is negative, zero (duration) or not a number.
    #[error("{path}:{line}: `{key}` is {value}; it must be a number of seconds, {must}")]
    Seconds {
        /// The manifest.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Which key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        must: &'static str,
    },
    /// An id used twice.
    #[error("{path}:{line}: the id `{id}` was used on line {first} already; ids must be unique")]
    DuplicateId {
        /// The manifest.
        path: PathBuf,
        /// The later line, from 1.
        line: usize,
        /// The earlier line.
        first: usize,
        /// The id.
        id: String,
    },
    /// A manifest without a single utterance.
    #[error("{path}: holds no utterances")]
    Empty {
        /// The manifest.
        path: PathBuf,
    },
}

/// A line as it is written.
#[derive(Deserialize)]
struct Raw {
    audio_filepath: Option<PathBuf>,
    text: String,
    id: Option<String>,
    offset: Option<f64>,
    duration: Option<f64>,
    response: Option<String>,
    emotion: Option<String>,
    speaker: Option<String>,
    context: Option<String>,
}

/// Reads the manifest at `path`.
pub fn read(path: &Path) -> Result<Vec<Entry>, ManifestError> {
    let unreadable = |source| ManifestError::Unreadable { path: path.into(), source };
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut entries, mut bytes, mut line) = (Vec::new(), Vec::new(), 0);
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
            break;
        }
        line += 1;
        if !bytes.trim_ascii().is_empty() {
            entries.push(parse(path, folder, line, &bytes)?);
        }
    }
    if entries.is_empty() {
        return Err(ManifestError::Empty { path: path.into() });
    }
    check_ids(path, &entries)?;
    Ok(entries)
}

fn parse(path: &Path, folder: &Path, line: usize, bytes: &[u8]) -> Result<Entry, ManifestError> {
    let malformed = |reason: String| ManifestError::Malformed { path: path.into(), line, reason };
    let text = str::from_utf8(bytes).map_err(|e| malformed(format!("not UTF-8 ({e})")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    if !text.starts_with('{') {
        return Err(malformed("expected a JSON object, one a line".into()));
    }
    let raw: Raw = serde_json::from_str(text).map_err(|e| malformed(json_reason(&e)))?;
    let emotion = raw.emotion.filter(|e| !e.is_empty()).map(|name| name.parse::<Emotion>()).transpose();
    let emotion = emotion.map_err(|source| ManifestError::Emotion { path: path.into(), line, source })?;
    let seconds = |key, value: f64, ok: bool, must| match ok && value.is_finite() {
        true => Ok(()),
        false => Err(ManifestError::Seconds { path: path.into(), line, key, value, must }),
    };
    if let Some(offset) = raw.offset {
        seconds("offset", offset, offset >= 0.0, "0 or more")?;
    }
    if let Some(duration) = raw.duration {
        seconds("duration", duration, duration > 0.0, "more than 0")?;
    }
    if raw.audio_filepath.is_some() && raw.context.is_some() {
        return Err(malformed(
            "`context` stands in place of speech: a line has it or `audio_filepath`, not both".into(),
        ));
    }
    let stem = raw.audio_filepath.as_deref().unwrap_or(path).file_stem().map(|s| s.to_string_lossy());
    let id = raw.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("{}-{line}", stem.unwrap_or_default()));
    let audio = raw.audio_filepath.map(|file| AudioRef {
        path: folder.join(file),
        offset: raw.offset.unwrap_or(0.0),
        duration: raw.duration,
    });
    let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
    let (response, speaker, context) = (filled(raw.response), filled(raw.speaker), filled(raw.context));
    Ok(Entry { id, audio, text: raw.text, response, emotion, speaker, context, line })
}

/// serde_json counts lines within our one line: keep what helps.
fn json_reason(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} (column {})", e.column())
}

fn check_ids(path: &Path, entries: &[Entry]) -> Result<(), ManifestError> {
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    for entry in entries {
        if let Some(first) = seen.insert(&entry.id, entry.line) {
            let (line, id) = (entry.line, entry.id.clone());
            return Err(ManifestError::DuplicateId { path: path.into(), line, first, id });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read_text(text: impl AsRef<[u8]>) -> Result<Vec<Entry>, ManifestError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.jsonl");
        std::fs::write(&path, text).unwrap();
        let folder = format!("{}/", dir.path().display());
        let result = read(&path);
        if let Err(e) = &result {
            assert!(e.to_string().starts_with(&format!("{folder}m.jsonl:")), "{e}");
            assert!(!e.to_string().contains('\n'), "{e}");
        }
        result
    }

    fn message(text: impl AsRef<[u8]>) -> String {
        let message = read_text(text).unwrap_err().to_string();
        message.split_once("m.jsonl:").unwrap().1.to_string()
    }

    #[test]
    fn every_key_is_read() {
        let entries = read_text(
            r#"{"audio_filepath": "a/b.wav", "text": "你好", "id": "x", "offset": 1.5, "duration": 2, "response": "好", "emotion": "sad", "speaker": "s", "lang": "zh"}

{"audio_filepath": "/abs/c.flac", "text": "t", "emotion": null}
{"text": "answer", "context": "question"}
"#,
        )
        .unwrap();
        let [first, second, third] = &entries[..] else { unreachable!("three lines") };
        let audio = first.audio.as_ref().unwrap();
        assert!(audio.path.is_absolute() && audio.path.ends_with("a/b.wav"));
        assert_eq!((audio.offset, audio.duration), (1.5, Some(2.0)));
        assert_eq!((first.id.as_str(), first.text.as_str(), first.line), ("x", "你好", 1));
        assert_eq!(first.response.as_deref(), Some("好"));
        assert_eq!((first.emotion, first.speaker.as_deref()), (Some(Emotion::Sad), Some("s")));
        assert_eq!(second.audio.as_ref().unwrap().path, Path::new("/abs/c.flac"));
        assert_eq!((second.id.as_str(), second.emotion, second.line), ("c-3", None, 3));
        assert_eq!((third.id.as_str(), third.context.as_deref()), ("m-4", Some("question")));
        assert_eq!(third.audio, None);
    }

    #[test]
    fn broken_json_is_malformed() {
        assert_eq!(message("{\"text\": \"a\"}\n{\"text\": \n"), "2: EOF while parsing a value (column 8)");
        assert_eq!(message("[1]"), "1: expected a JSON object, one a line");
    }

    #[test]
    fn missing_text_is_malformed() {
        assert_eq!(message(r#"{"audio_filepath": "a.wav"}"#), "1: missing field `text` (column 27)");
    }

    #[test]
    fn wrong_type_is_malformed() {
        let message = message(r#"{"text": "a", "duration": "long"}"#);
        assert!(message.starts_with("1: invalid type: string \"long\", expected f64"), "{message}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_malformed() {
        assert!(message(b"{\"text\": \"\xff\"}").starts_with("1: not UTF-8"));
    }

    #[test]
    fn context_beside_audio_is_malformed() {
        assert!(message(r#"{"text": "a", "audio_filepath": "a.wav", "context": "b"}"#).starts_with("1: `context`"));
    }

    #[test]
    fn unknown_emotion_names_the_line_and_the_five() {
        let wanted = "2: unknown emotion `glad`; it must be one of cheerful, fearful, angry, sad, neutral";
        assert_eq!(message("{\"text\": \"a\"}\n{\"text\": \"a\", \"emotion\": \"glad\"}"), wanted);
    }

    #[test]
    fn negative_offset_and_zero_duration_are_refused() {
        let offset = message(r#"{"text": "a", "offset": -1}"#);
        assert_eq!(offset, "1: `offset` is -1; it must be a number of seconds, 0 or more");
        let duration = message(r#"{"text": "a", "duration": 0}"#);
        assert_eq!(duration, "1: `duration` is 0; it must be a number of seconds, more than 0");
    }

    #[test]
    fn duplicate_id_names_both_lines() {
        let text = "{\"text\": \"a\", \"id\": \"x\"}\n\n{\"text\": \"b\", \"id\": \"x\"}\n";
        assert_eq!(message(text), "3: the id `x` was used on line 1 already; ids must be unique");
    }

    #[test]
    fn empty_manifest_is_refused() {
        assert_eq!(message("\n\n"), " holds no utterances");
    }

    #[test]
    fn missing_manifest_is_unreadable() {
        let error = read(Path::new("/nowhere/m.jsonl")).unwrap_err();
        assert!(matches!(error, ManifestError::Unreadable { .. }));
    }
}
