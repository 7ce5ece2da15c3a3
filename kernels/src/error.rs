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
    /// A device's memory that is full.
    #[error("out of memory: {what}")]
    OutOfMemory {
        /// What did not fit, and how much is there.
        what: String,
    },
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an op.
pub type Result<T> = std::result::Result<T, Error>;
