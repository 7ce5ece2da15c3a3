//! What was paid for: one line of JSON for each reply that was kept, on disk before it is used.

use super::chat::Usage;
use super::error::SynthError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Lines between two syncs: what a power failure, but no kill, may cost.
const SYNC_EVERY: usize = 32;

/// One line. `key` is [`key`] of what was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A response came.
    Response {
        /// The text's.
        id: String,
        /// What was asked.
        key: String,
        /// What was answered.
        response: String,
        /// What it took.
        usage: Usage,
    },
    /// A recording came, and lies in its file.
    Speech {
        /// The text's.
        id: String,
        /// What was asked.
        key: String,
        /// Its length at 16 kHz.
        samples: u64,
        /// Characters paid for.
        characters: u64,
    },
    /// The server will never give it.
    Refused {
        /// The text's.
        id: String,
        /// What was asked.
        key: String,
        /// Why not.
        reason: String,
    },
}

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Known {
    /// Responses by key.
    pub responses: HashMap<String, String>,
    /// Lengths of recordings in samples, by key.
    pub speech: HashMap<String, u64>,
    /// Reasons, by key.
    pub refused: HashMap<String, String>,
    /// Tokens of all responses.
    pub usage: Usage,
    /// Characters of all recordings.
    pub characters: u64,
}

/// Names what was asked about a text.
pub fn key(id: &str, asked: &str) -> String {
    let digest = Sha256::digest(format!("{id}\n{asked}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Known {
    /// Takes over what `record` says.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Response { key, response, usage, .. } => {
                self.usage.prompt_tokens += usage.prompt_tokens;
                self.usage.completion_tokens += usage.completion_tokens;
                self.responses.insert(key, response);
            }
            Record::Speech { key, samples, characters, .. } => {
                self.characters += characters;
                self.speech.insert(key, samples);
            }
            Record::Refused { key, reason, .. } => {
                self.refused.insert(key, reason);
            }
        }
    }

    /// What the journal at `path` holds; nothing if there is none.
    pub fn read(path: &Path) -> Result<Self, SynthError> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self::parse(path, &bytes)?.0),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(SynthError::io("read", path)(e)),
        }
    }

    /// What `bytes` say, and how many of them: a last line without its end was torn by a kill.
    fn parse(path: &Path, bytes: &[u8]) -> Result<(Self, usize), SynthError> {
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut known = Self::default();
        for (index, line) in bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
            let wrong = |e: serde_json::Error| SynthError::Journal {
                path: path.into(),
                line: index + 1,
                reason: e.to_string(),
            };
            known.add(serde_json::from_slice(line).map_err(wrong)?);
        }
        Ok((known, whole))
    }
}

/// The journal of a run that goes on. While it is open no other process can open it.
pub struct Journal {
    path: PathBuf,
    file: Mutex<(File, usize)>,
}

impl Journal {
    /// Opens or begins the journal at `path`; a torn last line is cut off.
    pub fn open(path: &Path) -> Result<(Self, Known), SynthError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = open.map_err(SynthError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SynthError::Busy(path.parent().unwrap_or(path).into())),
            Err(TryLockError::Error(e)) => return Err(SynthError::io("lock", path)(e)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(SynthError::io("read", path))?;
        let (known, whole) = Known::parse(path, &bytes)?;
        let cut = file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map_err(SynthError::io("write", path))?;
        Ok((Self { path: path.into(), file: Mutex::new((file, 0)) }, known))
    }

    /// Appends `record`; when this returns, a kill no longer loses it.
    pub fn append(&self, record: &Record) -> Result<(), SynthError> {
        let mut line = serde_json::to_string(record).map_err(|e| SynthError::io("write", &self.path)(e.into()))?;
        line.push('\n');
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, pending) = &mut *guard;
        *pending += 1;
        let mut written = file.write_all(line.as_bytes());
        if *pending >= SYNC_EVERY {
            *pending = 0;
            written = written.and_then(|()| file.sync_data());
        }
        written.map_err(SynthError::io("write", &self.path))
    }

    /// From here on not even a power failure loses anything.
    pub fn sync(&self) -> Result<(), SynthError> {
        let guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0.sync_all().map_err(SynthError::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn response(id: &str) -> Record {
        let usage = Usage { prompt_tokens: 5, completion_tokens: 2 };
        Record::Response { id: id.into(), key: key(id, "asked"), response: "好\n的".into(), usage }
    }

    #[test]
    fn a_torn_last_line_is_forgotten_and_the_journal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (journal, known) = Journal::open(&path).unwrap();
        assert!(known.responses.is_empty());
        ["a", "b"].iter().for_each(|id| journal.append(&response(id)).unwrap());
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(Known::read(&path).unwrap().responses.len(), 1);
        let (journal, known) = Journal::open(&path).unwrap();
        assert_eq!((known.responses.len(), known.usage.prompt_tokens), (1, 5));
        journal.append(&response("b")).unwrap();
        journal.sync().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn damage_elsewhere_is_an_error_naming_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        std::fs::write(&path, format!("{}\n{{\"kind\":\n", serde_json::to_string(&response("a")).unwrap())).unwrap();
        let error = Known::read(&path).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl:2: not a line of the journal"), "{error}");
    }

    #[test]
    fn two_runs_cannot_write_one_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (_journal, _) = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(SynthError::Busy(_))));
    }

    #[test]
    fn keys_tell_ids_and_questions_apart() {
        assert_eq!(key("a", "x"), key("a", "x"));
        assert_ne!(key("a", "x"), key("b", "x"));
        assert_ne!(key("a", "x"), key("a", "y"));
        assert_eq!(key("a", "x").len(), 32);
    }
}
