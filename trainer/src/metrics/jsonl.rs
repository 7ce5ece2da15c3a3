//! `metrics.jsonl`: one JSON object per record, numbers in full precision, on disk as soon as written.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{MetricsError, Record};

/// Layer weights over time by tag: each row is `[layers]`.
pub(super) type LayerHistory = BTreeMap<String, Vec<Vec<f64>>>;

/// The open file.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file. Without `resumed_from` it begins empty; else lines after that step, and a line cut short when the run
    /// died, are removed. Also returns the layer weights of the lines that stay.
    ///
    /// # Errors
    /// A file that cannot be written, or a complete line that is not a record.
    pub(super) fn open(path: &Path, resumed_from: Option<u64>) -> Result<(Self, LayerHistory), MetricsError> {
        let failed = |source| MetricsError::Io { path: path.into(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let (keep, layers) = match resumed_from {
            None => (0, LayerHistory::new()),
            Some(step) => kept(path, &file, step)?,
        };
        file.set_len(keep).map_err(failed)?;
        file.seek(SeekFrom::Start(keep)).map_err(failed)?;
        Ok((Self { path: path.into(), file }, layers))
    }

    /// Appends one line.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<(), MetricsError> {
        let line = format!("{}\n", record.to_json());
        self.file.write_all(line.as_bytes()).map_err(|source| MetricsError::Io { path: self.path.clone(), source })
    }
}

/// How many bytes hold the records up to `last_step`, and their layer weights.
fn kept(path: &Path, file: &File, last_step: u64) -> Result<(u64, LayerHistory), MetricsError> {
    let mut keep = 0;
    let mut layers = LayerHistory::new();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = reader
            .read_until(b'\n', &mut line)
            .map_err(|source: io::Error| MetricsError::Io { path: path.into(), source })?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let malformed = |problem: String| MetricsError::Malformed { path: path.into(), line: number, problem };
        let record: Value = serde_json::from_slice(&line).map_err(|error| malformed(error.to_string()))?;
        let step = record.get("step").and_then(Value::as_u64).ok_or_else(|| malformed("no `step`".into()))?;
        if step > last_step {
            break;
        }
        for (tag, value) in record.as_object().into_iter().flatten() {
            if let Value::Array(weights) = value {
                layers.entry(tag.clone()).or_default().push(weights.iter().filter_map(Value::as_f64).collect());
            }
        }
        keep += length as u64;
    }
    Ok((keep, layers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn full_disk_is_an_error() {
        // Linux: every write to /dev/full fails as on a full disk.
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = JsonLines { path: "metrics.jsonl".into(), file }.write(&Record::new(1)).unwrap_err();
        assert!(error.to_string().starts_with("metrics.jsonl: No space left on device"), "{error}");
    }
}
