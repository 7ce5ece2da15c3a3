//! What can go wrong with weights.

use std::path::PathBuf;

/// Weights that cannot be read, do not fit, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing at that path.
    #[error("{}: no such file or directory (looked for {what})", path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
        /// What should have been there.
        what: &'static str,
    },
    /// A directory without weights.
    #[error(
        "{}: no weights here (looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin, \
         pytorch_model.bin.index.json and one *.pt)", path.display()
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// Several `.pt` files, and no way to choose.
    #[error("{}: several .pt files; name the one to read", path.display())]
    Ambiguous {
        /// The directory.
        path: PathBuf,
    },
    /// A file that cannot be parsed.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// One tensor of a file that cannot be read.
    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file names it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor whose shape is not the model's.
    #[error("{}: tensor `{name}` has shape {got:?}; the model is configured for {expected:?}", path.display())]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor, as the model names it.
        name: String,
        /// The shape in the file.
        got: Vec<usize>,
        /// The shape the configuration asks for.
        expected: Vec<usize>,
    },
    /// Parameters the checkpoint does not hold.
    #[error("{}: {count} of the model's tensors missing: {first}", path.display())]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The first few names.
        first: String,
    },
    /// A file of named tensors of which the model has none.
    #[error("{}: holds none of the model's tensors (its first is `{first}`)", path.display())]
    NothingMatches {
        /// The file.
        path: PathBuf,
        /// Its first tensor.
        first: String,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// From making or reading tensors.
    #[error(transparent)]
    Kernel(#[from] echat_kernels::Error),
    /// From registering a parameter.
    #[error(transparent)]
    Autograd(#[from] crate::autograd::Error),
}

/// The result of reading or writing weights.
pub type Result<T> = std::result::Result<T, Error>;

/// The first line of an error: candle appends backtraces.
pub(super) fn first_line(error: impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().trim().to_owned()
}
