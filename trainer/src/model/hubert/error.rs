//! What can go wrong with an encoder's configuration.

use std::path::PathBuf;

/// An encoder whose files or settings do not describe one.
#[derive(Debug, thiserror::Error)]
pub enum HubertConfigError {
    /// A file of the model directory that is not there.
    #[error("{}: no such file (encoder.path is a HuBERT directory: config.json and its weights)", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// A JSON file that does not describe a HuBERT this engine has.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting outside its range.
    #[error("encoder.{key} = {value}: {reason}")]
    Setting {
        /// The key in the `encoder` section.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        reason: &'static str,
    },
}

/// The result of reading an encoder's configuration.
pub type Result<T> = std::result::Result<T, HubertConfigError>;
