//! Corpora as they are published, decoded once into shards (`docs/shards.md`).
//!
//! A first pass over the transcripts counts, finds ids that come twice, and cuts the corpus into parts of about a shard each: a pure function of
//! the transcripts. In a second pass every rank makes its share of the parts, each on all threads. A part that is done is known by a record beside
//! its shard, so an interrupted run goes on where it was, and the result is the same bytes whatever happened on the way.

mod part;
mod plan;
mod sources;
mod state;
pub mod text;

use std::path::{Path, PathBuf};

use super::audio::{AudioError, SAMPLE_RATE};
use super::shard::{Index, ShardError};
use crate::dist::{self, Collective};

pub use plan::{Example, Survey, survey};
pub use sources::{Format, Found, Recording, Segment, Sound, Source, SourceError, Visit};

/// The list of what was left out, in the output directory.
pub const REJECTS_FILE: &str = "rejects.jsonl";
/// What the output directory was made from.
pub const RECIPE_FILE: &str = "prepare.json";

/// How to prepare.
#[derive(Clone, Debug, PartialEq)]
pub struct PrepareOptions {
    /// Recordings shorter than this many seconds are left out.
    pub min_seconds: f64,
    /// Recordings longer than this many seconds are left out.
    pub max_seconds: f64,
    /// More than this share left out is an error.
    pub max_bad_share: f64,
    /// No shard exceeds so many bytes, unless a single utterance does.
    pub shard_bytes: usize,
    /// Whether parts in which something was left out by an earlier run are made again.
    pub retry: bool,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self { min_seconds: 0.1, max_seconds: 60.0, max_bad_share: 0.01, shard_bytes: 512 << 20, retry: false }
    }
}

/// How far this rank is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Utterances this rank has to see to, those of an earlier run not counted.
    pub total: u64,
    /// Of these, done.
    pub done: u64,
    /// Of these, left out.
    pub rejected: u64,
    /// Seconds of speech written.
    pub seconds: f64,
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The shards.
    pub index: Index,
    /// How many utterances were left out; they are listed in [`REJECTS_FILE`].
    pub rejected: usize,
    /// Whether an earlier run had done everything.
    pub unchanged: bool,
}

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A source is wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A shard cannot be written, or there is no place for them.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Other ranks could not be told.
    #[error(transparent)]
    Dist(#[from] dist::Error),
    /// A file that cannot be read or written.
    #[error("{path}: {what}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        reason: String,
    },
    /// There is nothing to prepare.
    #[error("{what}: no utterance with a recording and a transcript{hint}")]
    Empty {
        /// The sources.
        what: String,
        /// What was found instead.
        hint: String,
    },
    /// The output directory holds something else.
    #[error(
        "{path}: made from other transcripts or with other options ({differs}); give another directory, or delete it first"
    )]
    OtherRecipe {
        /// The directory.
        path: PathBuf,
        /// What is not the same.
        differs: String,
    },
    /// Two processes would write the same files.
    #[error("{path}: another `echat prepare` is writing there; wait for it, or stop it")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The transcripts are not what they were when the work was planned.
    #[error(
        "part {part} of {out} has other utterances than when the work was planned: a source changed meanwhile; run again when it is at rest"
    )]
    Changed {
        /// The output directory.
        out: PathBuf,
        /// Which part.
        part: usize,
    },
    /// Too many recordings cannot be used.
    #[error(
        "{bad} of {total} utterances cannot be used, more than the allowed share of {share}; they are listed in {rejects}; one is {example}; mend them and \
         run again with --retry, or allow more with --max-bad-share"
    )]
    TooManyBad {
        /// How many so far.
        bad: u64,
        /// Of how many.
        total: u64,
        /// What is allowed.
        share: f64,
        /// The list.
        rejects: PathBuf,
        /// One of them.
        example: String,
    },
}

impl PrepareError {
    fn file(path: &Path, what: &'static str) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |e| Self::File { path: path.clone(), what, reason: e.to_string() }
    }
}

/// Why an utterance is left out.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Audio(#[from] AudioError),
    #[error("{seconds:.3} s is shorter than the {min} s asked for")]
    TooShort { seconds: f64, min: f64 },
    #[error("it has neither text nor response")]
    NoText,
    #[error("its id was used before; ids must be unique")]
    DuplicateId,
}

/// Makes shards of `sources` in `out`, on all ranks of `collective` and all threads of the rayon pool. Calls `progress` as it
/// goes. The bytes written depend on the transcripts, the recordings and `options` alone. The first rank returns what was made, the others `None`.
///
/// `out` must be empty, absent, or what an interrupted run of the same left there.
pub fn prepare(
    sources: &[Source],
    out: &Path,
    options: &PrepareOptions,
    collective: &mut dyn Collective,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Option<Prepared>, PrepareError> {
    let leads = collective.world().rank == 0;
    // The first rank looks at the transcripts and the directory; the others are told.
    let mut said = Vec::new();
    let (mut finished, mut hold) = (None, None);
    if leads {
        let plan = plan::scan(sources, options)?;
        let (held, there) = state::claim(out, sources, &plan, options)?;
        (finished, hold) = (there, Some(held));
        said = serde_json::to_vec(&(&plan, finished.is_some()))
            .map_err(|e| PrepareError::file(out, "cannot plan")(e.into()))?;
    }
    collective.broadcast_bytes(0, &mut said)?;
    let (plan, done): (plan::Plan, bool) =
        serde_json::from_slice(&said).map_err(|e| PrepareError::file(out, "cannot plan")(e.into()))?;
    if !done {
        part::make_share(sources, out, &plan, options, collective.world(), progress)?;
        collective.barrier()?;
    }
    let prepared = match (leads, finished) {
        (false, _) => None,
        (true, Some(finished)) => Some(finished),
        (true, None) => Some(state::finish(out, &plan, options)?),
    };
    drop(hold);
    Ok(prepared)
}

/// Bytes of so many seconds of audio in a shard.
fn audio_bytes(seconds: f64) -> usize {
    ((seconds * f64::from(SAMPLE_RATE)).ceil() as usize).saturating_mul(2)
}
