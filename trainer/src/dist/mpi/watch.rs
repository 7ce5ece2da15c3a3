//! Finding out who keeps the others waiting.
//!
//! A rank that has waited too long asks all others whether they are waiting too; a rank that waits answers, one that is
//! stuck, or busy with something else, does not. Questions and answers are empty messages.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::super::{Error, Result};
use super::ffi::Comm;

const QUESTION: c_int = 1;
const ANSWER: c_int = 2;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The lowest rank that waits reports; the others give it this long to end the job first.
const DEFER: Duration = Duration::from_secs(3);

/// One rank's wait in one operation.
pub struct Watch<'a> {
    timeout: Duration,
    rank: usize,
    hosts: &'a [String],
    started: Instant,
    looked: Instant,
    asked: Option<Instant>,
    waiting: Vec<bool>,
}

impl<'a> Watch<'a> {
    /// Starts to watch; `hosts` has the host of each rank.
    pub fn new(timeout: Duration, rank: usize, hosts: &'a [String]) -> Self {
        let now = Instant::now();
        let mut waiting = vec![false; hosts.len()];
        waiting[rank] = true;
        Self { timeout, rank, hosts, started: now, looked: now, asked: None, waiting }
    }

    /// Call it while waiting in `call`: answers others, and errors, naming the ranks that do not answer, when the
    /// time is up.
    pub fn look(&mut self, comm: &mut Comm, call: &'static str) -> Result<()> {
        let now = Instant::now();
        if now - self.looked < LOOK_EVERY {
            return Ok(());
        }
        self.looked = now;
        while let Some(from) = comm.take_signal(QUESTION)? {
            // An empty message needs no memory and no waiting for.
            drop(comm.signal(from, ANSWER)?);
        }
        while let Some(from) = comm.take_signal(ANSWER)? {
            self.waiting[from] = true;
        }
        match self.asked {
            None if now - self.started >= self.timeout => {
                for rank in (0..self.hosts.len()).filter(|&r| r != self.rank) {
                    drop(comm.signal(rank, QUESTION)?);
                }
                self.asked = Some(now);
                Ok(())
            }
            Some(asked) => {
                let reporter = self.waiting.iter().position(|&w| w) == Some(self.rank);
                let patience = if reporter { ANSWER_WITHIN } else { ANSWER_WITHIN + DEFER };
                if now - asked < patience { Ok(()) } else { Err(self.report(call)) }
            }
            None => Ok(()),
        }
    }

    fn report(&self, call: &'static str) -> Error {
        let missing: Vec<String> = (0..self.hosts.len())
            .filter(|&r| !self.waiting[r])
            .map(|r| format!("rank {r} on {}", self.hosts[r]))
            .collect();
        let missing = match missing.len() {
            0 => "no rank in particular: all wait, but not for the same operation".to_owned(),
            n if n > 8 => format!("{} and {} more", missing[..8].join(", "), n - 8),
            _ => missing.join(", "),
        };
        Error::Timeout { call, seconds: self.started.elapsed().as_secs(), missing }
    }
}
