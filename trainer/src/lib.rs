//! echat: trains speech LLMs data-parallel.

pub mod autograd;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod dist;
pub mod eval;
mod files;
pub mod gpu_check;
pub mod metrics;
pub mod model;
pub mod nn;
pub mod optim;
pub mod plan;
mod say;
pub mod train;

pub use say::{one_line, say};
