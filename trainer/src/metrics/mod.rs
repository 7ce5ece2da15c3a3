//! Watching a run: one record per interval goes to TensorBoard, to `metrics.jsonl` and to the terminal.

mod error;
mod heatmap;
mod jsonl;
pub mod names;
mod progress;
mod record;
mod tensorboard;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use error::MetricsError;
pub use jsonl::JsonLines;
pub use names::{Name, Tag};
pub use progress::{Progress, Work, line};
pub use record::Record;
pub use tensorboard::TensorBoard;

/// The files of a run: TensorBoard events and `metrics.jsonl`, in the run directory. Only rank 0 has one.
#[derive(Debug)]
pub struct MetricsFiles {
    tensorboard: TensorBoard,
    json_lines: JsonLines,
}

impl MetricsFiles {
    /// Starts or, with `resumed_from`, continues the files in `dir`: what was written after that step is cut off
    /// `metrics.jsonl` and hidden in TensorBoard.
    ///
    /// # Errors
    /// Files that cannot be written, or a broken line in an existing `metrics.jsonl`.
    pub fn open(dir: &Path, resumed_from: Option<u64>) -> Result<Self, MetricsError> {
        let (json_lines, layers) = JsonLines::open(&dir.join("metrics.jsonl"), resumed_from)?;
        let mut tensorboard = TensorBoard::create(dir, resumed_from.map(|step| step + 1))?;
        tensorboard.restore_layers(layers);
        Ok(Self { tensorboard, json_lines })
    }

    /// Writes a record to both.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<(), MetricsError> {
        self.json_lines.write(record)?;
        self.tensorboard.write(record)?;
        self.tensorboard.flush()
    }

    /// Writes Markdown text, such as sample transcripts or the configuration, to TensorBoard.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<(), MetricsError> {
        self.tensorboard.text(step, tag, markdown)?;
        self.tensorboard.flush()
    }

    /// Writes the last pictures.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(mut self) -> Result<(), MetricsError> {
        self.tensorboard.pictures()?;
        self.tensorboard.flush()
    }
}
