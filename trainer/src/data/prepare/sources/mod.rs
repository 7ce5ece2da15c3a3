//! Where recordings and transcripts come from: one file per layout. Each hands over its recordings one after the other, in an order that
//! depends on its files alone, and holds no more than its transcripts in memory.

mod aishell1;
mod aishell2;
mod jsonl;
mod kaldi;
mod lines;
mod wenet;
mod wenetspeech;

use std::io::Read;
use std::path::{Path, PathBuf};

use super::PrepareError;
use super::text::{Case, Punctuation, Spaces, TextRules, Width};
use crate::config::choice;
use crate::data::Emotion;
use crate::data::corpus::Reject;
use crate::data::manifest::ManifestError;

choice! {
    /// How a corpus lies on disk.
    pub enum Format {
        /// AISHELL-1 (OpenSLR 33): `wav/{train,dev,test}/S0002/*.wav` and `transcript/aishell_transcript_v0.8.txt`.
        Aishell1 = "aishell1",
        /// AISHELL-2: a directory with `wav.scp`, `trans.txt` and `wav/`, such as `AISHELL-2/iOS/data`.
        Aishell2 = "aishell2",
        /// WenetSpeech: a directory with `WenetSpeech.json` and `audio/` of long recordings.
        Wenetspeech = "wenetspeech",
        /// A Kaldi data directory: `wav.scp`, `text`, optionally `segments` and `utt2spk`.
        Kaldi = "kaldi",
        /// JSON lines, as of NeMo, of WeNet (raw `data.list`) and E-chat tuples; or a directory with `metadata.jsonl` (Hugging Face).
        Jsonl = "jsonl",
        /// WeNet shards: a tar archive, or a `data.list` of them.
        Wenet = "wenet",
    }
}

/// A corpus as the user names it.
#[derive(Clone, Debug)]
pub struct Source {
    /// A file or directory.
    pub path: PathBuf,
    /// Its layout.
    pub format: Format,
    /// Which parts of it; all if empty.
    pub subsets: Vec<String>,
    /// What is done to its transcripts.
    pub rules: TextRules,
}

/// Where a recording's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Sound {
    /// There is none: a text-only line.
    None,
    /// A file.
    File(PathBuf),
    /// Part of an archive.
    Member {
        /// The archive.
        archive: PathBuf,
        /// The member's name.
        name: String,
        /// Its first byte.
        start: u64,
        /// Its bytes.
        len: u64,
    },
}

/// One utterance of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Its name.
    pub id: String,
    /// What is said.
    pub text: String,
    /// The answer to be given.
    pub response: Option<String>,
    /// How it is said.
    pub emotion: Option<Emotion>,
    /// Who speaks.
    pub speaker: Option<String>,
    /// What stands in place of speech.
    pub context: Option<String>,
    /// Seconds from the start of the recording.
    pub offset: f64,
    /// Seconds; to the end of the recording if `None`.
    pub duration: Option<f64>,
    /// Where the source says so, for people.
    pub place: String,
}

impl Segment {
    /// The whole of a recording.
    fn whole(id: String, text: String, place: String) -> Self {
        Self {
            id,
            text,
            response: None,
            emotion: None,
            speaker: None,
            context: None,
            offset: 0.0,
            duration: None,
            place,
        }
    }
}

/// A recording and what is said in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Where it is.
    pub sound: Sound,
    /// Its utterances, in the source's order.
    pub segments: Vec<Segment>,
}

/// What a source holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Something to decode.
    Recording(Recording),
    /// Something that cannot be used, as is known without decoding.
    Unusable(Reject),
    /// Recordings without a transcript, in a corpus that is published with some.
    Untranscribed(u64),
}

/// Takes what a source holds, one after the other.
pub type Visit<'a> = dyn FnMut(Found) -> Result<(), PrepareError> + 'a;

/// What is wrong with a source as a whole.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The operating system does not give us a file or directory.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No layout we know.
    #[error(
        "{path}: not a corpus of a known layout (aishell1, aishell2, wenetspeech, kaldi, jsonl, wenet); name it with --format if it is one"
    )]
    UnknownFormat {
        /// The path.
        path: PathBuf,
    },
    /// A file that is not what it should be.
    #[error("{path}:{line}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A command instead of a file.
    #[error(
        "{path}:{line}: `{entry}` is a command; echat runs nothing that a data file asks for: write its output to wav or flac files and name these"
    )]
    Pipe {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The entry.
        entry: String,
    },
    /// Archives that must be unpacked first.
    #[error(
        "{path}: still packed; unpack the speakers' archives where they lie: cd {dir} && for f in *.tar.gz; do tar xzf $f; done"
    )]
    Packed {
        /// One of them.
        path: PathBuf,
        /// Where they lie.
        dir: PathBuf,
    },
    /// A subset that is not there.
    #[error("{path}: no subset `{subset}`; there is {known}")]
    UnknownSubset {
        /// The source.
        path: PathBuf,
        /// What was asked for.
        subset: String,
        /// What there is.
        known: String,
    },
    /// An archive whose end is missing.
    #[error("{path}: damaged or truncated archive: {reason}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A manifest that cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl SourceError {
    fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Unreadable { path, source }
    }
}

impl Format {
    /// The layout of what lies at `path`.
    pub fn detect(path: &Path) -> Result<Self, SourceError> {
        let unknown = || SourceError::UnknownFormat { path: path.into() };
        let facts = std::fs::metadata(path).map_err(SourceError::unreadable(path))?;
        if facts.is_dir() {
            std::fs::read_dir(path).map_err(SourceError::unreadable(path))?;
            let has = |name: &str| path.join(name).exists();
            return match () {
                () if aishell1::transcript(path).is_some() => Ok(Self::Aishell1),
                () if has(wenetspeech::METADATA) => Ok(Self::Wenetspeech),
                () if has("wav.scp") && has("trans.txt") => Ok(Self::Aishell2),
                () if has("wav.scp") && has("text") => Ok(Self::Kaldi),
                () if has(jsonl::METADATA) => Ok(Self::Jsonl),
                () => Err(unknown()),
            };
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("tar") => return Ok(Self::Wenet),
            Some("jsonl") => return Ok(Self::Jsonl),
            _ => {}
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(SourceError::unreadable(path))?;
        file.take(1 << 16).read_to_end(&mut bytes).map_err(SourceError::unreadable(path))?;
        // The last character may be cut in two.
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(|line| line.trim_matches(['\u{feff}', ' ', '\t', '\r']));
        let start = lines.into_iter().find(|line| !line.is_empty()).unwrap_or_default();
        let closed = start.ends_with('}');
        match start.chars().next() {
            Some('{') if start.contains("\"audios\"") || !closed => Ok(Self::Wenetspeech),
            Some('{') => Ok(Self::Jsonl),
            _ if start.ends_with(".tar") => Ok(Self::Wenet),
            _ => Err(unknown()),
        }
    }

    /// What the corpus's own recipes do to its transcripts.
    pub fn rules(self) -> TextRules {
        let mandarin = TextRules { width: Width::Ascii, case: Case::Upper, spaces: Spaces::Join, ..TextRules::KEEP };
        match self {
            Self::Aishell1 | Self::Wenetspeech => mandarin,
            Self::Aishell2 => TextRules { punctuation: Punctuation::Strip, variants: &[('𫖯', '頫')], ..mandarin },
            Self::Kaldi => TextRules { spaces: Spaces::Join, ..TextRules::KEEP },
            Self::Jsonl | Self::Wenet => TextRules::KEEP,
        }
    }
}

impl Source {
    /// The JSON lines at `path`, their transcripts as they are.
    pub fn json_lines(path: &Path) -> Self {
        Self { path: path.into(), format: Format::Jsonl, subsets: Vec::new(), rules: Format::Jsonl.rules() }
    }

    /// Hands all that the source holds to `visit`, transcripts as they are written.
    pub fn each(&self, visit: &mut Visit) -> Result<(), PrepareError> {
        let path = &self.path;
        if !self.subsets.is_empty() && !matches!(self.format, Format::Aishell1 | Format::Wenetspeech) {
            let (subset, known) = (self.subsets[0].clone(), format!("none in the layout {}", self.format));
            return Err(SourceError::UnknownSubset { path: path.clone(), subset, known }.into());
        }
        match self.format {
            Format::Aishell1 => aishell1::each(path, &self.subsets, visit),
            Format::Aishell2 => aishell2::each(path, visit),
            Format::Wenetspeech => wenetspeech::each(path, &self.subsets, visit),
            Format::Kaldi => kaldi::each(path, visit),
            Format::Jsonl => jsonl::each(path, visit),
            Format::Wenet => wenet::each(path, visit),
        }
    }
}

/// Brings neighbouring segments of one recording together, so that it is decoded once.
struct Grouping<'v, 'f> {
    visit: &'v mut Visit<'f>,
    pending: Option<Recording>,
}

impl<'v, 'f> Grouping<'v, 'f> {
    fn new(visit: &'v mut Visit<'f>) -> Self {
        Self { visit, pending: None }
    }

    fn segment(&mut self, sound: Sound, segment: Segment) -> Result<(), PrepareError> {
        match &mut self.pending {
            Some(recording) if recording.sound == sound && sound != Sound::None => {
                recording.segments.push(segment);
                Ok(())
            }
            _ => {
                self.flush()?;
                self.pending = Some(Recording { sound, segments: vec![segment] });
                Ok(())
            }
        }
    }

    fn unusable(&mut self, place: String, id: &str, reason: impl Into<String>) -> Result<(), PrepareError> {
        self.flush()?;
        (self.visit)(Found::Unusable(Reject { source: place, id: id.into(), reason: reason.into() }))
    }

    fn untranscribed(&mut self, count: u64) -> Result<(), PrepareError> {
        self.flush()?;
        if count == 0 { Ok(()) } else { (self.visit)(Found::Untranscribed(count)) }
    }

    /// To be called at the end.
    fn flush(&mut self) -> Result<(), PrepareError> {
        self.pending.take().map_or(Ok(()), |recording| (self.visit)(Found::Recording(recording)))
    }
}
