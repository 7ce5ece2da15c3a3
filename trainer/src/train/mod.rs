//! Training: one loop for every stage; what differs is in the configuration.

mod cache;
mod config;
mod error;
mod evaluate;
mod examples;
mod processor;
mod setup;
mod state;
mod step;
mod threads;
mod trainer;
mod watch;

pub use cache::open_cache;
pub use config::{OutputConfig, TrainConfig, TrainGroup, ValidationConfig};
pub use error::{Error, Result};
pub use evaluate::Validation;
pub use examples::{Examples, target_tokens};
pub use processor::ProcessorKinds;
pub use setup::Model;
pub use state::{Progress, SavedState};
pub use step::{LossScale, Outcome, Sums, Tally, Work, accumulate};
pub use threads::{set_threads, threads};
pub use trainer::Trainer;
