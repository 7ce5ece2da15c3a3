//! From summed gradients to new parameters: the learning rate's course, clipping, AdamW and SGD.

mod clip;
mod config;
mod error;
mod schedule;

pub use clip::clip_coefficient;
pub use config::{OptimizerConfig, OptimizerKind};
pub use error::{Error, Result};
pub use schedule::{Schedule, ScheduleKind};
