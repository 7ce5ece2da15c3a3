//! `MANIFEST.json` and the marker.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::sha256;
use super::{COMPLETE, Error, FILES, MANIFEST, PREFIX, REPLACED, Result};

const FORMAT: u64 = 1;

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u64,
    pub(super) step: u64,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) files: BTreeMap<String, FileRecord>,
}

/// The size in bytes and the SHA-256 of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn new(step: u64, metrics: &BTreeMap<String, f64>, files: BTreeMap<String, FileRecord>) -> Self {
        // JSON has no word for NaN or infinity, and neither is ever best.
        let metrics = metrics.iter().filter(|(_, v)| v.is_finite()).map(|(k, v)| (k.clone(), *v)).collect();
        Self { format: FORMAT, step, metrics, files }
    }

    /// The manifest of the checkpoint `dir`, verified by its marker.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let marker = match fs::read_to_string(dir.join(COMPLETE)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Incomplete { path: dir.into() }),
            // Not UTF-8: not what was written.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(source) => return Err(Error::Read { path: dir.join(COMPLETE), source }),
        };
        let path = dir.join(MANIFEST);
        let damaged = |problem: String| Error::Damaged { path: path.clone(), problem };
        let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        if marker.trim() != sha256(&bytes) {
            return Err(damaged("its SHA-256 is not the one in the COMPLETE marker".into()));
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(Error::Format { path, found: manifest.format, known: FORMAT });
        }
        if let Some(missing) = FILES.iter().find(|f| !manifest.files.contains_key(**f)) {
            return Err(damaged(format!("it does not list {missing}")));
        }
        Ok(manifest)
    }

    /// What was saved of `file`, one of [`FILES`].
    pub(super) fn file(&self, dir: &Path, file: &str) -> Result<&FileRecord> {
        self.files
            .get(file)
            .ok_or_else(|| Error::Damaged { path: dir.join(MANIFEST), problem: format!("it does not list {file}") })
    }
}

/// A directory that bears the name of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) step: u64,
    pub(super) path: PathBuf,
    /// It was moved aside for a newer one of the same step.
    pub(super) replaced: bool,
}

impl Candidate {
    pub(super) fn is_marked(&self) -> bool {
        self.path.join(COMPLETE).exists()
    }
}

/// Everything in `dir` that bears the name of a checkpoint, newest first. None if there is no such directory.
pub(super) fn candidates(dir: &Path) -> Result<Vec<Candidate>> {
    let read_error = |source| Error::Read { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(read_error(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(read_error)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (digits, replaced) = match (name.strip_prefix(PREFIX), name.strip_prefix(REPLACED)) {
            (Some(digits), _) => (digits, false),
            (None, Some(digits)) => (digits, true),
            (None, None) => continue,
        };
        if let Ok(step) = digits.parse() {
            found.push(Candidate { step, path: entry.path(), replaced });
        }
    }
    found.sort_by_key(|c| (std::cmp::Reverse(c.step), c.replaced));
    Ok(found)
}
