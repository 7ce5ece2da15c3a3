//! What can go wrong in the optimizer.

/// Settings or a saved state that do not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that makes no sense.
    #[error("`{key}`: {problem}")]
    Setting {
        /// Its key in the configuration.
        key: String,
        /// What is wrong with it, and what it may be.
        problem: String,
    },
    /// A saved state made by other parameters or another optimizer.
    #[error("the saved optimizer state does not fit: {0}; resume with the model and optimizer it was saved by")]
    State(String),
    /// A kernel refused.
    #[error(transparent)]
    Kernel(#[from] echat_kernels::Error),
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an optimizer's work.
pub type Result<T> = std::result::Result<T, Error>;
