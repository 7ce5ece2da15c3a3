//! When to ask: a token bucket per endpoint, waits that end when the run is stopped, retries with backoff.

use super::config::LimitsConfig;
use super::error::SynthError;
use echat_kernels::rng;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits are cut into pieces of this length, so that a stopped run ends soon.
const SLICE: Duration = Duration::from_millis(20);

/// Says to all threads that the run is over.
#[derive(Debug, Default)]
pub struct Halt(AtomicBool);

impl Halt {
    /// From now on every wait is an error.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error if the run was stopped.
    pub fn check(&self) -> Result<(), SynthError> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(SynthError::Halted),
            false => Ok(()),
        }
    }

    /// Waits, unless the run is stopped.
    pub fn wait(&self, time: Duration) -> Result<(), SynthError> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => sleep(left.min(SLICE)),
                _ => return Ok(()),
            }
        }
    }
}

/// Tokens that come at a steady rate and are kept for up to a second; a request takes one.
#[derive(Debug)]
struct Tokens {
    per_second: f64,
    left: f64,
    /// When they were last counted; not before the first request, or a late one would find many.
    counted: Option<Instant>,
    /// The server asked for no requests until then.
    paused: Instant,
}

impl Tokens {
    fn new(per_minute: f64, now: Instant) -> Self {
        Self { per_second: per_minute / 60.0, left: 1.0, counted: None, paused: now }
    }

    /// Takes a token, or says how long to wait before asking again.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        if now < self.paused {
            return Some(self.paused - now);
        }
        if self.per_second <= 0.0 {
            return None;
        }
        let since = self.counted.map_or(0.0, |counted| now.saturating_duration_since(counted).as_secs_f64());
        self.left = (self.left + since * self.per_second).min(self.per_second.max(1.0));
        self.counted = Some(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 - self.left) / self.per_second))
    }
}

/// The rate of requests to one endpoint.
#[derive(Debug)]
pub struct Bucket(Mutex<Tokens>);

impl Bucket {
    /// Lets `per_minute` requests a minute through; any number if that is 0.
    pub fn new(per_minute: f64) -> Self {
        Self(Mutex::new(Tokens::new(per_minute, Instant::now())))
    }

    /// Waits for this request's turn.
    pub fn turn(&self, halt: &Halt) -> Result<(), SynthError> {
        loop {
            let wait = self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
            match wait {
                Some(time) => halt.wait(time)?,
                None => return halt.check(),
            }
        }
    }

    /// Lets nothing through for `time`.
    pub fn pause(&self, time: Duration) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.paused = tokens.paused.max(Instant::now() + time);
    }
}

/// Why a try gave nothing.
#[derive(Debug)]
pub enum Failure {
    /// It may go better next time, but not before the wait the server asks for.
    Again(String, Option<Duration>),
    /// It would go the same way every time.
    Never(String),
    /// No request has a chance.
    Fatal(SynthError),
}

/// What was given up, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenUp {
    /// In one line.
    pub reason: String,
    /// Whether asking again could not help.
    pub lasting: bool,
}

/// Tries until it goes well, at most `limits.tries` times.
pub fn insist<T>(
    limits: &LimitsConfig,
    halt: &Halt,
    id: &str,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<Result<T, GivenUp>, SynthError> {
    for number in 1.. {
        halt.check()?;
        let (reason, asked) = match attempt() {
            Ok(value) => return Ok(Ok(value)),
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Never(reason)) => return Ok(Err(GivenUp { reason, lasting: true })),
            Err(Failure::Again(reason, asked)) => (reason, asked.unwrap_or_default()),
        };
        if asked.as_secs_f64() > limits.max_retry_after_seconds {
            let reason = format!("{reason}; the server asks for a wait of {} s, too long to obey", asked.as_secs());
            return Ok(Err(GivenUp { reason, lasting: false }));
        }
        if number >= limits.tries {
            return Ok(Err(GivenUp { reason: format!("{reason} (try {number} of {number})"), lasting: false }));
        }
        halt.wait(backoff(limits, id, number).max(asked))?;
    }
    Err(SynthError::Halted)
}

/// The wait after failure `number` (from 1): doubling, less up to a half, so that requests that failed together do not come back together.
fn backoff(limits: &LimitsConfig, id: &str, number: u32) -> Duration {
    let doubled = limits.backoff_seconds * 2f64.powi(number.saturating_sub(1).min(30) as i32);
    let jitter = 1.0 - 0.5 * rng::uniform(rng::key(rng::site(id), u64::from(number)));
    Duration::from_secs_f64(doubled.min(limits.max_backoff_seconds) * jitter)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_come_at_the_rate_and_pauses_hold() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut tokens = Tokens::new(120.0, start);
        assert_eq!(tokens.take(start), None);
        assert_eq!(tokens.take(start), Some(Duration::from_millis(500)));
        assert_eq!(tokens.take(at(0.5)), None);
        // No more than a second's tokens are kept.
        assert_eq!([9.0, 9.0, 9.0].map(|t| tokens.take(at(t)).is_none()), [true, true, false]);
        tokens.paused = at(20.0);
        assert_eq!(tokens.take(at(19.0)), Some(Duration::from_secs(1)));
        assert_eq!(tokens.take(at(20.0)), None);
        assert!((0..1000).all(|_| Tokens::new(0.0, start).take(start).is_none()));
    }

    #[test]
    fn waits_double_up_to_the_longest_and_differ_between_items() {
        let limits = LimitsConfig::default();
        let seconds = |id, number| backoff(&limits, id, number).as_secs_f64();
        for number in 1..=10 {
            let longest = 2f64.powi(number as i32 - 1).min(60.0);
            assert!((0.5 * longest..=longest).contains(&seconds("a", number)), "{number}");
        }
        assert_ne!(seconds("a", 3), seconds("b", 3));
        assert_eq!(seconds("a", 3), seconds("a", 3));
    }

    #[test]
    fn insisting_ends_with_success_refusal_or_the_last_try() {
        let limits = LimitsConfig { backoff_seconds: 0.0, tries: 3, ..LimitsConfig::default() };
        let halt = Halt::default();
        let run = |failures: u32, lasting: bool| {
            let mut tried = 0;
            let result = insist(&limits, &halt, "x", || {
                tried += 1;
                match (tried > failures, lasting) {
                    (true, _) => Ok(tried),
                    (false, true) => Err(Failure::Never("no".into())),
                    (false, false) => Err(Failure::Again("busy".into(), None)),
                }
            });
            (result.unwrap(), tried)
        };
        assert_eq!(run(2, false), (Ok(3), 3));
        assert_eq!(run(3, false), (Err(GivenUp { reason: "busy (try 3 of 3)".into(), lasting: false }), 3));
        assert_eq!(run(1, true), (Err(GivenUp { reason: "no".into(), lasting: true }), 1));
        halt.stop();
        assert!(matches!(insist(&limits, &halt, "x", || Ok(())), Err(SynthError::Halted)));
    }

    #[test]
    fn a_wait_longer_than_allowed_is_not_obeyed() {
        let limits = LimitsConfig::default();
        let busy = || Err::<(), _>(Failure::Again("busy".into(), Some(Duration::from_secs(3600))));
        let given_up = insist(&limits, &Halt::default(), "x", busy).unwrap().unwrap_err();
        assert_eq!(given_up.reason, "busy; the server asks for a wait of 3600 s, too long to obey");
    }
}
