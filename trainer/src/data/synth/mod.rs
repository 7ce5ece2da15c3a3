//! The E-chat200 builder: emotion-labelled texts become spoken questions with responses, as the paper made its corpus: responses by a
//! chat endpoint, speech by a TTS backend in the emotion's style and one of several voices.
//!
//! ```text
//! OUT/run.json            what was asked for
//! OUT/journal.jsonl       every reply that was paid for
//! OUT/wav/…               recordings: 16 kHz, mono
//! OUT/rejects.jsonl       texts left out, and why
//! OUT/{part}.jsonl        manifests
//! OUT/{part}/             feature shards
//! OUT/stats.json          the paper's Table 1, and the cost; written last
//! ```
//!
//! What comes out depends on texts, configuration and replies alone, not on threads, retries or interruptions.

pub mod azure;
pub mod chat;
mod check;
pub mod command;
pub mod config;
pub mod cost;
pub mod error;
pub mod gather;
pub mod http;
pub mod journal;
pub mod output;
pub mod pace;
pub mod place;
pub mod secret;
pub mod speech;
pub mod template;
pub mod texts;
pub mod work;

use config::SynthConfig;
use cost::Cost;
use error::SynthError;
use journal::{Journal, Known};
use output::{Report, sizes};
use place::{Found, Place};
use std::path::Path;
use work::Work;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many are to be made, one by one.
    Begin {
        /// Of these (singular).
        what: &'static str,
        /// How many.
        total: usize,
    },
    /// One more is done.
    Advance,
    /// All are done, or it was given up.
    End,
}

/// Is told how far it is, by any thread.
pub type Watch<'a> = &'a (dyn Fn(Progress) + Sync);

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The corpus is built.
    Built(Report),
    /// It was built before; nothing was done.
    Finished,
}

/// Builds the corpus of `config` in `out`, or goes on where an earlier run was stopped. With `accept_changes` that run may have asked for
/// something else: what the change leaves as it was is kept.
///
/// # Errors
/// Whatever stopped it; what was paid for is kept.
pub fn build(config: &SynthConfig, out: &Path, accept_changes: bool, watch: Watch<'_>) -> Result<Outcome, SynthError> {
    let items = texts::read(&config.texts)?;
    let parts = sizes(config, &items)?;
    let (place, identity) = (Place::new(out), place::identity(config, &items, &parts));
    match place.look(&identity)? {
        Found::Finished => return Ok(Outcome::Finished),
        Found::Other(key) if !accept_changes => return Err(SynthError::Changed { path: out.into(), key }),
        // The journal of a place that is nobody's would look like somebody else's.
        Found::Nothing => place.claim(&identity)?,
        Found::Begun | Found::Other(_) => {}
    }
    let (journal, known) = Journal::open(&place.journal())?;
    place.reopen()?;
    place.claim(&identity)?;
    let work = Work { config, items: &items, place: &place, known: &known };
    let results = work.run(&journal, watch)?;
    let paid = Known::read(&place.journal())?;
    let cost = Cost::of(&config.prices, paid.usage, paid.characters);
    output::write(&work, &results, cost, watch).map(Outcome::Built)
}
