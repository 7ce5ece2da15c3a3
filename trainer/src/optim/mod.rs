//! From summed gradients to new parameters: the learning rate's course, clipping, AdamW and SGD.
//!
//! A step: `decision = optimizer.decide(buckets)`, by the norm of the gradients, then `optimizer.step(buckets, schedule.factor(step, steps), decision)`:
//! gradients are scaled and applied in one pass over the buckets, all where they are; `optimizer.learn(decision)` tells the host.

mod config;
mod error;
mod optimizer;
mod schedule;

pub use config::{OptimizerConfig, OptimizerKind};
pub use error::{Error, Result};
pub use optimizer::Optimizer;
pub use schedule::{Schedule, ScheduleKind};
