//! `metrics.jsonl` of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Tags that tell of this machine and this moment.
const OF_THE_MOMENT: [&str; 3] = ["wall", "speed/", "memory/"];

/// The records of a run.
pub struct Metrics {
    records: Vec<Value>,
}

impl Metrics {
    /// Reads them from the run directory `run`.
    pub fn read(run: &Path) -> Self {
        let path = run.join("metrics.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { records: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }

    /// Value of `tag` by step.
    pub fn of(&self, tag: &str) -> Vec<(u64, f64)> {
        let value = |record: &Value| Some((record["step"].as_u64()?, record.get(tag)?.as_f64().unwrap_or(f64::NAN)));
        self.records.iter().filter_map(value).collect()
    }

    /// The value of `tag` in the last record that has it.
    pub fn last(&self, tag: &str) -> f64 {
        self.of(tag).last().unwrap_or_else(|| panic!("no {tag}")).1
    }

    /// All that must not depend on when and where the run was: by step and tag, numbers as written.
    pub fn repeatable(&self) -> BTreeMap<(u64, String), String> {
        let mut all = BTreeMap::new();
        for record in &self.records {
            let step = record["step"].as_u64().unwrap();
            for (tag, value) in record.as_object().unwrap() {
                if !OF_THE_MOMENT.iter().any(|prefix| tag.starts_with(prefix)) {
                    let before = all.insert((step, tag.clone()), value.to_string());
                    assert!(before.is_none() || tag == "step", "{tag} of step {step} is there twice");
                }
            }
        }
        all
    }
}

/// Errors unless `a` and `b` have the same steps and values within `tolerance`, relative; says what the largest difference was.
pub fn assert_close(what: &str, a: &[(u64, f64)], b: &[(u64, f64)], tolerance: f64) {
    assert!(!a.is_empty(), "{what}: nothing to compare");
    assert_eq!(a.len(), b.len(), "{what}: another number of steps");
    let mut worst = 0.0f64;
    for ((step, x), (other, y)) in a.iter().zip(b) {
        assert_eq!(step, other, "{what}: other steps");
        let difference = (x - y).abs() / x.abs().max(f64::MIN_POSITIVE);
        let difference = if x == y { 0.0 } else { difference };
        assert!(
            difference <= tolerance,
            "{what}: step {step}: {x} and {y} differ by {difference:.2e} > {tolerance:.0e}"
        );
        worst = worst.max(difference);
    }
    println!("{what}: at most {worst:.2e} apart over {} steps", a.len());
}
