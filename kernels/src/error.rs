//! What can go wrong in an op.

use candle_core::{DType, Shape};

/// An op that was asked for something it does not do; names the op and what it saw.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shape that does not fit the others.
    #[error("{op}: {what}: expected shape {expected}, got {got:?}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// The shape asked for, in words.
        expected: String,
        /// The shape seen.
        got: Shape,
    },
    /// A dtype the op has no implementation for.
    #[error("{op}: no implementation for dtype {dtype:?} on this device")]
    DType {
        /// The op.
        op: &'static str,
        /// The dtype seen.
        dtype: DType,
    },
    /// A device the op has no implementation for.
    #[error("{op}: no implementation for device {device}")]
    Device {
        /// The op.
        op: &'static str,
        /// The device seen.
        device: String,
    },
    /// A value outside what the op accepts.
    #[error("{op}: {message}")]
    Value {
        /// The op.
        op: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// How an error begins that says that a GPU's memory is full.
pub const MEMORY_FULL: &str = "the GPU's memory is full";

/// What to do then.
pub const MEMORY_ADVICE: &str = "lower data.micro_batch_seconds or data.micro_batch_tokens, or set recompute = true for the decoder and the \
                                 encoder; `echat plan` predicts what a configuration needs";

/// The result of an op.
pub type Result<T> = std::result::Result<T, Error>;
