//! What can go wrong on the tape.

/// An op or a gradient that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From an op.
    #[error(transparent)]
    Kernel(#[from] echat_kernels::Error),
    /// From the tensor library.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A backward function returned another number of gradients than the op has inputs.
    #[error("op `{op}` returned {got} gradients for {inputs} inputs")]
    Arity {
        /// The op.
        op: &'static str,
        /// Gradients returned.
        got: usize,
        /// Inputs recorded.
        inputs: usize,
    },
    /// A gradient whose shape is not its value's.
    #[error("op `{op}`: the gradient of input {input} has shape {got:?}, its value {expected:?}")]
    GradientShape {
        /// The op.
        op: &'static str,
        /// Which input.
        input: usize,
        /// The gradient's shape.
        got: Vec<usize>,
        /// The value's shape.
        expected: Vec<usize>,
    },
    /// Two parameters of one name.
    #[error("parameter `{0}` is registered twice")]
    Duplicate(String),
    /// A model that was asked for something it cannot do.
    #[error("{0}")]
    Model(String),
}

/// The result of building or differentiating a computation.
pub type Result<T> = std::result::Result<T, Error>;
