//! A manifest's recordings, decoded once into shards.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::audio::{AudioError, SAMPLE_RATE};
use super::corpus::Reject;
use super::manifest::{self, Entry, ManifestError};
use super::shard::{Index, ShardError, ShardWriter};
use super::utterance::Utterance;

/// The list of what was left out, in the output directory.
pub const REJECTS_FILE: &str = "rejects.jsonl";
/// Recordings decoded side by side before they are written: bounds memory.
const PORTION: usize = 256;

/// How to prepare.
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// Recordings shorter than this many seconds are left out.
    pub min_seconds: f64,
    /// Recordings longer than this many seconds are left out.
    pub max_seconds: f64,
    /// More than this share left out is an error.
    pub max_bad_share: f64,
    /// A new shard begins before one exceeds so many bytes.
    pub shard_bytes: usize,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self { min_seconds: 0.1, max_seconds: 60.0, max_bad_share: 0.01, shard_bytes: 512 << 20 }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Lines of the manifest.
    pub total: usize,
    /// Lines done.
    pub done: usize,
    /// Of these, lines left out.
    pub rejected: usize,
    /// Seconds of speech written.
    pub seconds: f64,
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The shards.
    pub index: Index,
    /// What was left out.
    pub rejects: Vec<Reject>,
}

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A shard cannot be written, or there is no place for them.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The list of rejects cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Rejects {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Too many recordings cannot be used.
    #[error(
        "{bad} of {total} lines cannot be used, more than the allowed share of {share}; they are listed in {rejects}; one is {example}"
    )]
    TooManyBad {
        /// How many so far.
        bad: usize,
        /// Of how many.
        total: usize,
        /// What is allowed.
        share: f64,
        /// The list.
        rejects: PathBuf,
        /// One of them.
        example: String,
    },
}

/// Why a line is left out.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Audio(#[from] AudioError),
    #[error("{seconds:.3} s is shorter than the {min} s asked for")]
    TooShort { seconds: f64, min: f64 },
    #[error("it has neither text nor response")]
    NoText,
}

/// Decodes every recording of the manifest at `manifest`, on all threads of the rayon pool, into shards in `out`, which
/// must be empty or not exist. Calls `progress` as it goes. The bytes written depend on the manifest, its recordings and
/// `options` alone.
pub fn prepare(
    manifest: &Path,
    out: &Path,
    options: &PrepareOptions,
    mut progress: impl FnMut(&Progress),
) -> Result<Prepared, PrepareError> {
    let entries = manifest::read(manifest)?;
    let mut writer = ShardWriter::create(out, options.shard_bytes)?;
    let mut rejects = Rejects::create(out)?;
    let mut so_far = Progress { total: entries.len(), ..Progress::default() };
    for portion in entries.chunks(PORTION) {
        let loaded: Vec<Result<Utterance, Unusable>> = portion.par_iter().map(|entry| load(entry, options)).collect();
        for (entry, utterance) in portion.iter().zip(loaded) {
            so_far.done += 1;
            match utterance {
                Ok(utterance) => {
                    so_far.seconds += utterance.audio.len() as f64 / f64::from(SAMPLE_RATE);
                    writer.push(&utterance)?;
                }
                Err(e) => {
                    so_far.rejected += 1;
                    let source = format!("{}:{}", manifest.display(), entry.line);
                    rejects.push(Reject { source, id: entry.id.clone(), reason: e.to_string() })?;
                    rejects.check(entries.len(), options.max_bad_share)?;
                }
            }
        }
        progress(&so_far);
    }
    let rejects = rejects.finish()?;
    Ok(Prepared { index: writer.finish()?, rejects })
}

fn load<'a>(entry: &'a Entry, options: &PrepareOptions) -> Result<Utterance<'a>, Unusable> {
    if entry.text.is_empty() && entry.response.is_none() {
        return Err(Unusable::NoText);
    }
    let utterance = entry.load(Some(options.max_seconds))?;
    let (seconds, min) = (utterance.audio.len() as f64 / f64::from(SAMPLE_RATE), options.min_seconds);
    match entry.audio.is_some() && seconds < min {
        true => Err(Unusable::TooShort { seconds, min }),
        false => Ok(utterance),
    }
}

/// Written as it grows, so that it is there whatever happens.
struct Rejects {
    path: PathBuf,
    file: BufWriter<File>,
    list: Vec<Reject>,
}

impl Rejects {
    fn create(out: &Path) -> Result<Self, PrepareError> {
        let path = out.join(REJECTS_FILE);
        let file = File::create(&path).map_err(|source| PrepareError::Rejects { path: path.clone(), source })?;
        Ok(Self { path, file: BufWriter::new(file), list: Vec::new() })
    }

    fn failed(&self, source: std::io::Error) -> PrepareError {
        PrepareError::Rejects { path: self.path.clone(), source }
    }

    fn push(&mut self, reject: Reject) -> Result<(), PrepareError> {
        let line = serde_json::to_string(&reject).map_err(|e| self.failed(e.into()))?;
        writeln!(self.file, "{line}").and_then(|()| self.file.flush()).map_err(|e| self.failed(e))?;
        self.list.push(reject);
        Ok(())
    }

    fn check(&self, total: usize, share: f64) -> Result<(), PrepareError> {
        let bad = self.list.len();
        match self.list.first() {
            Some(first) if bad as f64 > share * total as f64 => {
                let example = format!("{}: {}", first.source, first.reason);
                Err(PrepareError::TooManyBad { bad, total, share, rejects: self.path.clone(), example })
            }
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Vec<Reject>, PrepareError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(|e| self.failed(e))?;
        Ok(self.list)
    }
}
