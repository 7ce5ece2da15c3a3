//! What can go wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

/// A checkpoint that cannot be saved, found or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was saved.
    #[error("cannot write {}: {source}; {}; checkpoints saved before are intact", .path.display(), advice(.source))]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A checkpoint whose save was interrupted, or a directory that is none.
    #[error("{} is not a complete checkpoint (it has no COMPLETE marker): name another one", .path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
    },
    /// Bytes that are not those that were saved.
    #[error("{} is damaged: {problem}; use another checkpoint", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs from what was saved.
        problem: String,
    },
    /// A layout this version does not know.
    #[error("{}: checkpoint format {found}, this echat reads format {known}; use the version that saved it", .path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// Tensors of another model.
    #[error("{} does not fit the model: {problems}; use the configuration it was saved with", .path.display())]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// The first few that differ, in words.
        problems: String,
    },
    /// Two tensors of one name, or a dtype that is not saved.
    #[error("cannot save tensor {name}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No checkpoint where one was asked for.
    #[error("no complete checkpoint in {}{}", .dir.display(), list(.skipped))]
    NotFound {
        /// The directory.
        dir: PathBuf,
        /// Why each one there does not count.
        skipped: Vec<String>,
    },
    /// A fresh run would mix with another one's files.
    #[error("output directory {} is not empty: continue it with --resume auto, or choose another directory", .dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// Two processes would write one history.
    #[error("another process trains in {}: end it first, or choose another output directory", .dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
    /// Going back would leave two histories in one directory.
    #[error(
        "{} is followed by newer checkpoints (up to {newest}): continue with --resume auto, move those away, or choose \
         another output directory", .path.display()
    )]
    Newer {
        /// The checkpoint asked for.
        path: PathBuf,
        /// The newest one.
        newest: String,
    },
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of work on checkpoints.
pub type Result<T> = std::result::Result<T, Error>;

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free space or choose an output directory on another disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "choose an output directory you may write to"
        }
        _ => "check the disk",
    }
}

fn list(skipped: &[String]) -> String {
    if skipped.is_empty() { String::new() } else { format!(": {}", skipped.join("; ")) }
}
