//! One wait of a rank for others.

use std::collections::BTreeSet;
use std::time::Instant;

/// A rank's wait in one operation, for [`Collective::watch`](super::Collective::watch).
#[derive(Debug)]
pub struct Waiting {
    /// What the others should have joined.
    pub call: &'static str,
    /// Whom it is for, in words, where all ranks turn out to be waiting.
    pub nobody: &'static str,
    /// Whether the others are asked at once, not when the time is up.
    pub at_once: bool,
    /// Since when.
    pub started: Instant,
    /// When questions and answers were last looked for.
    pub looked: Instant,
    /// When the others were asked whether they wait too.
    pub asked: Option<Instant>,
    /// Those that do.
    pub answered: BTreeSet<usize>,
}

impl Waiting {
    /// Begins to wait in `call`; `nobody` is said for the missing where all are waiting.
    pub fn new(call: &'static str, nobody: &'static str) -> Self {
        let now = Instant::now();
        let answered = BTreeSet::new();
        Self { call, nobody, at_once: false, started: now, looked: now, asked: None, answered }
    }
}
