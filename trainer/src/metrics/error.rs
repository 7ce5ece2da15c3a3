//! What can go wrong with the metrics files.

use std::{io, path::PathBuf};

/// An error of a metrics file.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A complete line of `metrics.jsonl` is not a record.
    #[error("{}:{line}: not a metrics record: {problem}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// An event that cannot be encoded.
    #[error("cannot encode a TensorBoard event: {0}")]
    Encode(String),
}
