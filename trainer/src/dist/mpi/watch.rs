//! Finding out who keeps the others waiting.
//!
//! A rank that has waited too long asks all others whether they are waiting too; a rank that waits answers, one that is
//! stuck, or busy with something else, does not. Questions and answers are empty messages.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::super::waiting::Waiting;
use super::super::{Error, Result};
use super::ffi::Comm;

const QUESTION: c_int = 1;
const ANSWER: c_int = 2;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The lowest rank that waits reports; the others give it this long to end the job first.
const DEFER: Duration = Duration::from_secs(3);

/// Rank `rank` and its wait; `hosts` has the host of each rank.
pub struct Watch<'a> {
    pub timeout: Duration,
    pub rank: usize,
    pub hosts: &'a [String],
    pub waiting: &'a mut Waiting,
}

impl Watch<'_> {
    /// Call it while waiting: answers others, and errors, naming the ranks that do not answer, when the time is up.
    pub fn look(&mut self, comm: &mut Comm) -> Result<()> {
        let now = Instant::now();
        if now - self.waiting.looked < LOOK_EVERY {
            return Ok(());
        }
        self.waiting.looked = now;
        while let Some(from) = comm.take_signal(QUESTION)? {
            // An empty message needs no memory and no waiting for.
            drop(comm.signal(from, ANSWER)?);
        }
        while let Some(from) = comm.take_signal(ANSWER)? {
            self.waiting.answered.insert(from);
        }
        match self.waiting.asked {
            None if self.waiting.at_once || now - self.waiting.started >= self.timeout => {
                for rank in (0..self.hosts.len()).filter(|&r| r != self.rank) {
                    drop(comm.signal(rank, QUESTION)?);
                }
                self.waiting.asked = Some(now);
                Ok(())
            }
            Some(asked) => {
                let reporter = self.waiting.answered.first().is_none_or(|&lowest| self.rank < lowest);
                let patience = if reporter { ANSWER_WITHIN } else { ANSWER_WITHIN + DEFER };
                if now - asked < patience { Ok(()) } else { Err(self.report()) }
            }
            None => Ok(()),
        }
    }

    fn report(&self) -> Error {
        let missing: Vec<String> = (0..self.hosts.len())
            .filter(|r| *r != self.rank && !self.waiting.answered.contains(r))
            .map(|r| format!("rank {r} on {}", self.hosts[r]))
            .collect();
        let missing = match missing.len() {
            0 => self.waiting.nobody.to_owned(),
            n if n > 8 => format!("{} and {} more", missing[..8].join(", "), n - 8),
            _ => missing.join(", "),
        };
        Error::Timeout { call: self.waiting.call, seconds: self.waiting.started.elapsed().as_secs(), missing }
    }
}
