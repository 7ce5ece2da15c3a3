//! From summed gradients to new parameters: the learning rate's course, clipping, AdamW and SGD.
//!
//! A step: `norm = grad_norm(buckets) / count`, `coefficient = clip_coefficient(norm, clip_norm)`, then
//! `optimizer.step(buckets, schedule.factor(step, steps), decision)`: gradients are sums over the global batch and are
//! divided, clipped and applied in one pass over the buckets.

mod clip;
mod config;
mod error;
mod optimizer;
mod schedule;

pub use clip::clip_coefficient;
pub use config::{OptimizerConfig, OptimizerKind};
pub use error::{Error, Result};
pub use optimizer::{Optimizer, grad_norm};
pub use schedule::{Schedule, ScheduleKind};
