//! Checkpoints of a training run.
//!
//! ```text
//! checkpoints/step-00001234/
//!     model.safetensors        the trainable parameters (f32 masters)
//!     optimizer.safetensors    the optimizer's state
//!     state.json               everything else a resumed run needs
//!     MANIFEST.json            step, metrics, size and SHA-256 of the files above
//!     COMPLETE                 SHA-256 of MANIFEST.json; written last
//! ```
//!
//! A checkpoint is written under a temporary name, synced, renamed, marked, and only then are older ones removed (marker
//! first), so that a process killed at any moment leaves the newest marked one whole. Loading verifies every byte.

mod config;
mod digest;
mod error;
mod load;
mod manifest;
mod retain;
pub mod run_dir;
mod save;
mod tensors;

use std::collections::BTreeMap;

use candle_core::Tensor;

pub use config::{Better, CheckpointConfig};
pub use error::{Error, Result};
pub use load::{Latest, best, expect_tensors, latest_complete, load, load_state, verify};
pub use save::{Saved, Stage, save, save_with};

/// What is saved of a run at the end of a step.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Optimizer steps taken.
    pub step: u64,
    /// Trainable parameters by name, f32 or bf16, any shape.
    pub tensors: Vec<(String, Tensor)>,
    /// Optimizer state by name, f32 or bf16, any shape.
    pub optimizer: Vec<(String, Tensor)>,
    /// Whatever else the run needs to go on (sampler position, configuration, world). Its f64 values come back exactly.
    pub state: serde_json::Value,
    /// The latest validation metrics by tag name; what "best" is judged by. Non-finite ones are left out.
    pub metrics: BTreeMap<String, f64>,
}

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const MANIFEST: &str = "MANIFEST.json";
const COMPLETE: &str = "COMPLETE";
const FILES: [&str; 3] = [MODEL, OPTIMIZER, STATE];

const PREFIX: &str = "step-";
const TEMPORARY: &str = ".tmp-step-";
/// The checkpoint of a step that is being saved again (after going back), until the new one is complete.
const REPLACED: &str = ".replaced-step-";
