//! What can go wrong in the optimizer.

/// Settings or a saved state that do not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting outside its range.
    #[error("{key} = {value}: expected {expected}")]
    Setting {
        /// Its key in the configuration.
        key: String,
        /// Its value.
        value: f64,
        /// What it may be, in words.
        expected: &'static str,
    },
    /// A learning rate for a group no model has.
    #[error("optimizer.groups.{name}: no such group{}; groups are {known}", hint(.nearest))]
    Group {
        /// The name given.
        name: String,
        /// One that is much like it.
        nearest: Option<String>,
        /// All of them.
        known: String,
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

fn hint(name: &Option<String>) -> String {
    name.as_ref().map_or(String::new(), |n| format!(" (did you mean {n:?}?)"))
}

/// The result of an optimizer's work.
pub type Result<T> = std::result::Result<T, Error>;
