//! What a person at the terminal sees: one line per interval of training, and a bar or a few lines for other long work.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Record, names};
use crate::say;

/// Without a terminal, long work says how far it is this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Training: a line per record on standard output; on a terminal also a bar on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    total_steps: u64,
}

impl Progress {
    /// From `first_step` (0, or where the run resumed) to `total_steps`.
    pub fn new(first_step: u64, total_steps: u64) -> Self {
        let bar = bar(total_steps, "steps");
        bar.set_position(first_step);
        bar.reset_eta();
        Self { bar, total_steps }
    }

    /// Moves the bar.
    pub fn step(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Prints the line of a record.
    pub fn record(&self, record: &Record) {
        self.print(&line(record, self.total_steps));
    }

    /// Prints any other line without disturbing the bar. A closed standard output is no reason to stop training.
    pub fn print(&self, text: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stdout(), "{text}");
        });
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Other long work: a bar on a terminal, else a line every ten seconds; both on standard error.
#[derive(Debug)]
pub struct Work {
    bar: ProgressBar,
    what: String,
    total: u64,
    done: u64,
    begun: Instant,
    last_line: Instant,
}

impl Work {
    /// `total` items of `what` (a plural noun).
    pub fn new(what: &str, total: u64) -> Self {
        let now = Instant::now();
        Self { bar: bar(total, what), what: what.into(), total, done: 0, begun: now, last_line: now }
    }

    /// `count` more are done.
    pub fn advance(&mut self, count: u64) {
        self.done += count;
        self.bar.set_position(self.done);
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            say(&format!("{} of {} {}, {} to go", self.done, self.total, self.what, self.left()));
        }
    }

    /// How long the rest will take at the pace so far.
    fn left(&self) -> HumanDuration {
        let (done, left) = (self.done.max(1) as f64, self.total.saturating_sub(self.done) as f64);
        HumanDuration(self.begun.elapsed().mul_f64(left / done))
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn bar(total: u64, what: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = format!("{{bar:40}} {{pos}}/{{len}} {what}, {{elapsed}} so far, {{eta}} to go");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

/// One record in one line; what it does not hold is left out.
pub fn line(record: &Record, total_steps: u64) -> String {
    let mut parts = vec![format!("step {}/{total_steps}", record.step)];
    for (word, total, decoder, emotion, accuracy) in [
        ("loss", &names::LOSS, &names::LOSS_DECODER, &names::LOSS_EMOTION, &names::EMOTION_ACCURACY),
        (
            "valid loss",
            &names::VALID_LOSS,
            &names::VALID_LOSS_DECODER,
            &names::VALID_LOSS_EMOTION,
            &names::VALID_EMOTION_ACCURACY,
        ),
    ] {
        let Some(total) = record.get(total) else { continue };
        let mut text = format!("{word} {total:.4}");
        // With one part the total says it all.
        if let (Some(decoder), Some(emotion)) = (record.get(decoder), record.get(emotion)) {
            let _ = write!(text, " (decoder {decoder:.4}, emotion {emotion:.4})");
        }
        parts.push(text);
        parts.extend(record.get(accuracy).map(|share| format!("emotion accuracy {:.1} %", share * 100.0)));
    }
    let mut rates: Vec<f64> = record.members(&names::LEARNING_RATE).map(|(_, rate)| rate).collect();
    rates.dedup();
    if !rates.is_empty() {
        parts.push(format!("lr {}", rates.iter().map(|rate| format!("{rate:.2e}")).collect::<Vec<_>>().join(", ")));
    }
    parts.extend(record.get(&names::GRAD_NORM).map(|norm| format!("grad norm {norm:.3}")));
    parts.extend(record.get(&names::AUDIO_HOURS_PER_HOUR).map(|rate| format!("{rate:.1} audio-h/h")));
    if let Some(seconds) = record.get(&names::STEP_SECONDS) {
        let left = total_steps.saturating_sub(record.step);
        parts.push(format!("{seconds:.3} s/step"));
        parts.push(format!("ETA {}", duration(seconds * left as f64)));
    }
    parts.join(" | ")
}

/// `4h05m`, `3m20s`, `12s`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}
