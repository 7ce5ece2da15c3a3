//! JSONL manifests: one utterance a line.
//!
//! | key | or | |
//! |---|---|---|
//! | `audio_filepath` | `wav`, `audio`, `file_name`, `question_speech` | the recording; a relative path is relative to the manifest's folder |
//! | `text` | `txt`, `transcription`, `sentence`, `question`, `question_text` | what is said (required) |
//! | `offset`, `duration` | | in seconds: the part of the recording that is meant |
//! | `id` | `key`, `utt` | defaults to the recording's file stem, `-` and the line number |
//! | `response` | `answer` | the answer to be given |
//! | `emotion` | | cheerful, fearful, angry, sad or neutral, or a common word for one of these |
//! | `speaker` | `spk` | who speaks |
//! | `context` | | text-only lines (no recording): embedded where the speech would stand |
//!
//! The other names are those of WeNet's `data.list`, Hugging Face audio folders and E-chat tuples; where a line has several, the leftmost
//! counts. Other keys are ignored, as manifests of other tools bring their own; so are empty lines.

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

/// A line as it is written, by any of its names.
#[derive(Deserialize)]
struct Raw {
    audio_filepath: Option<PathBuf>,
    wav: Option<PathBuf>,
    audio: Option<PathBuf>,
    file_name: Option<PathBuf>,
    question_speech: Option<PathBuf>,
    text: Option<String>,
    txt: Option<String>,
    transcription: Option<String>,
    sentence: Option<String>,
    question: Option<String>,
    question_text: Option<String>,
    id: Option<String>,
    key: Option<String>,
    utt: Option<String>,
    offset: Option<f64>,
    duration: Option<f64>,
    response: Option<String>,
    answer: Option<String>,
    emotion: Option<String>,
    speaker: Option<String>,
    spk: Option<String>,
    context: Option<String>,
}

/// Reads the manifest at `path`.
pub fn read(path: &Path) -> Result<Vec<Entry>, ManifestError> {
    let entries: Vec<Entry> = Lines::open(path)?.collect::<Result<_, _>>()?;
    if entries.is_empty() {
        return Err(ManifestError::Empty { path: path.into() });
    }
    check_ids(path, &entries)?;
    Ok(entries)
}

/// The lines of a manifest that are not empty, one after the other. After [`ManifestError::Emotion`] or
/// [`ManifestError::Seconds`] the next line may be good; the others leave no hope.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    line: usize,
}

impl Lines {
    /// Opens the manifest at `path`.
    pub fn open(path: &Path) -> Result<Self, ManifestError> {
        let file = File::open(path).map_err(|source| ManifestError::Unreadable { path: path.into(), source })?;
        Ok(Self { path: path.into(), reader: BufReader::new(file), line: 0 })
    }
}

impl Iterator for Lines {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(source) => return Some(Err(ManifestError::Unreadable { path: self.path.clone(), source })),
            }
            if !bytes.trim_ascii().is_empty() {
                return Some(parse(&self.path, self.line, &bytes));
            }
        }
    }
}

fn parse(path: &Path, line: usize, bytes: &[u8]) -> Result<Entry, ManifestError> {
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
    let said = raw.text.or(raw.txt).or(raw.transcription).or(raw.sentence).or(raw.question).or(raw.question_text);
    let said = said.ok_or_else(|| malformed("no `text`".into()))?;
    let file = raw.audio_filepath.or(raw.wav).or(raw.audio).or(raw.file_name).or(raw.question_speech);
    if file.is_some() && raw.context.is_some() {
        return Err(malformed(
            "`context` stands in place of speech: a line has it or `audio_filepath`, not both".into(),
        ));
    }
    let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
    let stem = file.as_deref().unwrap_or(path).file_stem().map(|s| s.to_string_lossy());
    let id = filled(raw.id).or(filled(raw.key)).or(filled(raw.utt));
    let id = id.unwrap_or_else(|| format!("{}-{line}", stem.unwrap_or_default()));
    let folder = path.parent().unwrap_or(Path::new(""));
    let audio = file.map(|file| AudioRef {
        path: folder.join(file),
        offset: raw.offset.unwrap_or(0.0),
        duration: raw.duration,
    });
    let (response, speaker) = (filled(raw.response.or(raw.answer)), filled(raw.speaker.or(raw.spk)));
    Ok(Entry { id, audio, text: said, response, emotion, speaker, context: filled(raw.context), line })
}

impl ManifestError {
    /// What is wrong, without the place.
    pub fn reason(&self) -> String {
        match self {
            Self::Emotion { source, .. } => source.to_string(),
            Self::Seconds { key, value, must, .. } => {
                format!("`{key}` is {value}; it must be a number of seconds, {must}")
            }
            other => other.to_string(),
        }
    }
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
    fn the_names_of_other_tools_are_known() {
        let entries = read_text(
            r#"{"key": "BAC009S0002W0122", "wav": "/d/a.wav", "txt": "而对楼市"}
{"file_name": "b.mp3", "transcription": "你好"}
{"question_text": "问", "question_speech": "c.wav", "answer": "答", "emotion": "<HAPPY>", "spk": "s1", "utt": "q"}
"#,
        )
        .unwrap();
        let of =
            |e: &Entry| (e.id.clone(), e.text.clone(), e.audio.as_ref().unwrap().path.file_name().unwrap().to_owned());
        assert_eq!(of(&entries[0]), ("BAC009S0002W0122".into(), "而对楼市".into(), "a.wav".into()));
        assert_eq!(of(&entries[1]), ("b-2".into(), "你好".into(), "b.mp3".into()));
        assert_eq!(of(&entries[2]), ("q".into(), "问".into(), "c.wav".into()));
        assert_eq!(entries[2].response.as_deref(), Some("答"));
        assert_eq!((entries[2].emotion, entries[2].speaker.as_deref()), (Some(Emotion::Cheerful), Some("s1")));
    }

    #[test]
    fn broken_json_is_malformed() {
        assert_eq!(message("{\"text\": \"a\"}\n{\"text\": \n"), "2: EOF while parsing a value (column 8)");
        assert_eq!(message("[1]"), "1: expected a JSON object, one a line");
    }

    #[test]
    fn missing_text_is_malformed() {
        assert_eq!(message(r#"{"audio_filepath": "a.wav"}"#), "1: no `text`");
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
