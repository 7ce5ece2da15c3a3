//! `echat gpu-check`: what a GPU computes against what it should, and how fast, in one command and one report.

mod model;
mod parity;
mod scratch;
mod speed;
mod steps;
mod stream;
mod weights;

use candle_core::{DType, Device};
use echat_kernels::check;
use serde_json::{Value, json};

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Results: kernels and the tiny model.
    Quick,
    /// And speed: kernels at the large model's sizes, reading weights, and its steps.
    Full,
}

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The models for checking cannot be built.
    #[error("{0}")]
    Setup(String),
    /// Computing failed.
    #[error(transparent)]
    Autograd(#[from] crate::autograd::Error),
    /// Computing failed.
    #[error(transparent)]
    Kernel(#[from] echat_kernels::Error),
    /// Weights cannot be read.
    #[error(transparent)]
    Weights(#[from] crate::model::weights::Error),
    /// A step failed.
    #[error(transparent)]
    Train(Box<crate::train::Error>),
}

impl From<crate::train::Error> for Error {
    fn from(error: crate::train::Error) -> Self {
        Self::Train(Box::new(error))
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Kernel(error.into())
    }
}

/// What was found, as it is found.
pub struct Report<'a> {
    say: &'a mut dyn FnMut(&str),
    failed: Vec<String>,
}

impl<'a> Report<'a> {
    /// One that tells `say` each line.
    pub fn new(say: &'a mut dyn FnMut(&str)) -> Self {
        Self { say, failed: Vec::new() }
    }

    /// What did not hold.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    fn say(&mut self, line: &str) {
        (self.say)(line);
    }

    /// Notes whether `value` is at most `bound`; NaN is not.
    fn holds(&mut self, what: &str, value: f64, bound: f64) {
        let holds = value <= bound;
        let verdict = if holds { "ok" } else { "FAILED" };
        self.say(&format!("{verdict:<7}{what}: {value:.2e} (at most {bound:.0e})"));
        if !holds {
            self.failed.push(format!("{what}: {value:.2e}, at most {bound:.0e}"));
        }
    }

    fn is(&mut self, what: &str, holds: bool) {
        self.say(&format!("{:<7}{what}", if holds { "ok" } else { "FAILED" }));
        if !holds {
            self.failed.push(what.to_owned());
        }
    }
}

/// Checks `device`, part by part, and gives `measured` the name and the measurements of each as it ends. What fails to hold, or cannot be done, is in `report`; the other
/// parts follow all the same.
pub fn run(device: &Device, level: Level, report: &mut Report, measured: &mut dyn FnMut(&str, Value, &[String])) {
    let mut part = |name: &str, report: &mut Report, values: Result<Value, Error>| {
        let values = values.unwrap_or_else(|error| {
            report.is(&format!("{name}: {error}"), false);
            Value::Null
        });
        measured(name, values, report.failed());
    };
    let values = kernels(device, report);
    part("kernels", report, Ok(values));
    let values = parity::run(device, report);
    part("tiny", report, values);
    let values = nccl(device, report);
    part("nccl", report, Ok(values));
    if level == Level::Quick {
        let values = other_paths(device, report);
        return part("other_paths", report, Ok(values));
    }
    let ceilings = match speed::ceilings(device) {
        Ok(ceilings) => ceilings,
        Err(error) => return part("speed", report, Err(error)),
    };
    let values = weights::run(device, weights::BYTES, report);
    part("weights", report, values);
    let values = steps::run(device, &steps::FULL, &ceilings, report);
    part("steps", report, values);
    let values = speed::run(device, &ceilings, report);
    part("speed", report, values);
    let mut values = other_paths(device, report);
    part("other_paths", report, Ok(values.clone()));
    let timed = speed::other_paths(device, &ceilings, report).map(|rows| {
        values["speed"] = rows.into();
        values
    });
    part("other_paths", report, timed);
}

fn kernels(device: &Device, report: &mut Report) -> Value {
    compared(check::run(device), report)
}

/// Attention by instructions that are not taken: last, because a kernel that fails ends all else on a GPU.
fn other_paths(device: &Device, report: &mut Report) -> Value {
    json!({ "kernels": compared(check::other_paths(device), report) })
}

/// A line and a row for each op and dtype: the worst of its comparisons.
fn compared(compared: Vec<check::Compared>, report: &mut Report) -> Value {
    let mut rows = Vec::new();
    let ops: std::collections::BTreeSet<_> = compared.iter().map(|c| (c.op, c.dtype == DType::BF16)).collect();
    for (op, bf16) in ops {
        let of_op = || compared.iter().filter(|c| c.op == op && (c.dtype == DType::BF16) == bf16);
        // What must be equal has a bound of 0.
        let used = |c: &check::Compared| c.error / c.bound.max(f64::MIN_POSITIVE);
        let worst = of_op().max_by(|a, b| used(a).total_cmp(&used(b)));
        let Some(worst) = worst else { continue };
        let dtype = if bf16 { "bf16" } else { "f32" };
        report.holds(
            &format!("{op}, {dtype}, {} comparisons, worst {}", of_op().count(), worst.what),
            worst.error,
            worst.bound,
        );
        rows.push(json!({
            "op": op, "dtype": dtype, "comparisons": of_op().count(), "worst": worst.what, "error": worst.error, "bound": worst.bound,
        }));
    }
    Value::Array(rows)
}

/// A communicator of this GPU alone. Without NCCL one GPU trains all the same, so that it is missing is told and fails nothing.
#[cfg(feature = "cuda")]
fn nccl(device: &Device, report: &mut Report) -> Value {
    use crate::dist::{Error as DistError, nccl};
    match nccl::check(device) {
        Ok(checked) => {
            report.is(&format!("NCCL {}: sums of one rank", checked.version), true);
            json!({ "version": checked.version })
        }
        Err(error @ DistError::NcclLibrary { .. }) => {
            report.say(&format!("       NCCL: not run: {error}"));
            json!({ "not_run": error.to_string() })
        }
        Err(error) => {
            report.is(&format!("NCCL: {error}"), false);
            json!({ "failed": error.to_string() })
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn nccl(_device: &Device, _report: &mut Report) -> Value {
    Value::Null
}

/// Waits until `device` has done what it was asked to.
fn wait(device: &Device) -> Result<(), Error> {
    #[cfg(feature = "cuda")]
    echat_kernels::cuda::synchronize(device)?;
    let _ = device;
    Ok(())
}

/// Does `f` on the CPU's own ops, whatever the check runs in.
fn on_host<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "emulate")]
    return echat_kernels::cuda::not_emulated(f);
    #[cfg(not(feature = "emulate"))]
    f()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(device: &Device) -> Vec<String> {
        let mut say = |line: &str| println!("{line}");
        let mut report = Report::new(&mut say);
        let mut parts = Vec::new();
        run(device, Level::Quick, &mut report, &mut |name, values, _| parts.push((name.to_owned(), values)));
        assert_eq!(
            parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["kernels", "tiny", "nccl", "other_paths"]
        );
        assert!(parts[0].1.as_array().unwrap().len() > 50 && parts[1].1.as_array().unwrap().len() == 4);
        report.failed().to_vec()
    }

    #[test]
    fn the_cpu_agrees_with_itself() {
        assert_eq!(check(&Device::Cpu), [""; 0]);
    }

    #[test]
    fn the_worst_of_an_op_is_told_where_numbers_must_be_equal() {
        let of = |what: &str, error| check::Compared {
            op: "checksum",
            what: what.into(),
            dtype: DType::F32,
            error,
            bound: 0.0,
        };
        let mut report_lines = Vec::new();
        let mut say = |line: &str| report_lines.push(line.to_owned());
        let mut report = Report::new(&mut say);
        let rows = compared(vec![of("good", 0.0), of("bad", f64::INFINITY), of("good too", 0.0)], &mut report);
        assert_eq!(report.failed().len(), 1);
        assert_eq!(rows[0]["worst"], "bad");
    }

    /// Every kernel in its place in a whole training step, without a GPU.
    #[cfg(feature = "emulate")]
    #[test]
    fn kernels_train_as_the_cpu_does() {
        assert_eq!(echat_kernels::cuda::emulated(|| check(&Device::Cpu)), [""; 0]);
    }

    #[test]
    fn a_model_trains_from_shards() {
        let device = Device::Cpu;
        let task = model::Task {
            size: model::Size::Tiny,
            stage: 1,
            precision: crate::model::echat::Precision::F32,
            micro_batch_seconds: 6.0,
            micro_batches: 2,
            recompute: false,
        };
        let mut training = model::Training::new(&task, &device).unwrap();
        let mut lines = Vec::new();
        let mut say = |line: &str| lines.push(line.to_owned());
        let mut report = Report::new(&mut say);
        let steps = stream::Steps { warm: 2, timed: 3 };
        let row = stream::run(&mut training, &task, steps, &device, &mut report).unwrap();
        assert_eq!(report.failed(), [""; 0]);
        // Three steps of at most 12 s, none of them nearly empty.
        let seconds = row["seconds_of_speech"].as_f64().unwrap();
        assert!(seconds > 15.0 && seconds <= 36.0, "{row}");
        assert!((0.0..1.0).contains(&row["data_wait"].as_f64().unwrap()), "{row}");
        assert!(lines.iter().any(|line| line.contains("waiting for data")), "{lines:?}");
    }

    #[test]
    fn what_does_not_hold_is_told() {
        let mut lines = Vec::new();
        let mut say = |line: &str| lines.push(line.to_owned());
        let mut report = Report::new(&mut say);
        report.holds("an error", f64::NAN, 1.0);
        report.holds("a small one", 0.5, 1.0);
        report.is("a fact", false);
        assert_eq!(report.failed().len(), 2);
        assert!(lines[0].starts_with("FAILED an error") && lines[1].starts_with("ok"), "{lines:?}");
    }
}
