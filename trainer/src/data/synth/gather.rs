//! Getting many things at a time: threads, tries, the journal, and when it is enough.

use super::config::LimitsConfig;
use super::error::SynthError;
use super::journal::{Journal, Record};
use super::pace::{Failure, Halt, insist};
use super::texts::Item;
use super::{Progress, Watch};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What became of texts, by index: a value, or why there is none.
pub type Results<T> = BTreeMap<usize, Result<T, String>>;

/// A text that lacks something.
pub struct Open<'a, Q> {
    /// The text's index.
    pub index: usize,
    /// The text.
    pub item: &'a Item,
    /// What is asked.
    pub question: Q,
    /// Its name in the journal.
    pub key: String,
}

/// What does not depend on what is got.
pub struct Gathering<'a> {
    /// "response" or "recording".
    pub what: &'static str,
    /// How many texts there are, for the share of bad ones.
    pub total: usize,
    /// When to give up.
    pub limits: &'a LimitsConfig,
    /// What is got is on disk before it is used.
    pub journal: &'a Journal,
    /// Stops everybody after an error.
    pub halt: &'a Halt,
    /// Is told how far it is.
    pub watch: Watch<'a>,
}

/// What the threads share.
struct Shared<T> {
    results: Results<T>,
    /// Texts that got nothing, with those of earlier runs, and why the first did.
    bad: usize,
    example: Option<String>,
    error: Option<SynthError>,
}

impl Gathering<'_> {
    /// Gets something for each of `open` on `threads` threads, each of which works with a state of its own made by `start`, journals it and adds it to
    /// `results`. The first error stops all threads and is returned; what was got by then is in the journal.
    pub fn run<Q: Sync, T: Send, S>(
        &self,
        threads: usize,
        open: &[Open<'_, Q>],
        results: Results<T>,
        start: impl Fn(usize) -> S + Sync,
        get: impl Fn(&mut S, &Open<'_, Q>) -> Result<(T, Record), Failure> + Sync,
    ) -> Result<Results<T>, SynthError> {
        let bad = results.values().filter(|result| result.is_err()).count();
        let example = results.values().find_map(|result| result.as_ref().err().cloned());
        let shared = Mutex::new(Shared { results, bad, example, error: None });
        let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
        self.tolerate(&lock())?;
        let next = AtomicUsize::new(0);
        (self.watch)(Progress::Begin { what: self.what, total: open.len() });
        let work = |thread: usize| -> Result<(), SynthError> {
            let mut state = start(thread);
            while let Some(open) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                let got = insist(self.limits, self.halt, &open.item.id, || get(&mut state, open))?;
                match &got {
                    Ok((_, record)) => self.journal.append(record)?,
                    Err(given_up) if given_up.lasting => {
                        let (id, key, reason) = (open.item.id.clone(), open.key.clone(), given_up.reason.clone());
                        self.journal.append(&Record::Refused { id, key, reason })?;
                    }
                    Err(_) => {}
                }
                let mut shared = lock();
                if let Err(given_up) = &got {
                    shared.bad += 1;
                    shared.example.get_or_insert_with(|| format!("{}: {}", open.item.source, given_up.reason));
                }
                let result = got.map(|(value, _)| value).map_err(|given_up| given_up.reason);
                shared.results.insert(open.index, result);
                self.tolerate(&shared)?;
                (self.watch)(Progress::Advance);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for thread in 0..threads.min(open.len()) {
                let work = &work;
                scope.spawn(move || {
                    if let Err(error) = work(thread) {
                        // Those that were stopped by the first error have nothing to say.
                        self.halt.stop();
                        let mut shared = lock();
                        shared.error =
                            shared.error.take().filter(|first| !matches!(first, SynthError::Halted)).or(Some(error));
                    }
                });
            }
        });
        (self.watch)(Progress::End);
        let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.journal.sync()?;
        match shared.error {
            Some(error) => Err(error),
            None => Ok(shared.results),
        }
    }

    /// An error if too many texts got nothing.
    fn tolerate<T>(&self, shared: &Shared<T>) -> Result<(), SynthError> {
        let (bad, total, share) = (shared.bad, self.total, self.limits.max_bad_share);
        if bad as f64 <= share * total as f64 {
            return Ok(());
        }
        let example = shared.example.clone().unwrap_or_default();
        Err(SynthError::TooManyBad { bad, total, what: self.what, share, example })
    }
}
