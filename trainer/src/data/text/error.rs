//! What can be wrong with a tokenizer, its input or a prompt template.

use std::{io, path::PathBuf};

/// An error of the text side.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The model directory has no tokenizer.
    #[error("{} has no tokenizer: expected tokenizer.json or tokenizer.model", .0.display())]
    NoTokenizer(PathBuf),
    /// There is no model directory.
    #[error("{}: no such directory (decoder.path is a Hugging Face model directory: config.json, weights and tokenizer)", .0.display())]
    NoDirectory(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's content is broken or not supported.
    #[error("{}: {problem}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Text the tokenizer cannot express, such as an unknown character without an unknown token.
    #[error("cannot tokenize {text:?}: {problem}")]
    Encode {
        /// The text.
        text: String,
        /// The tokenizer's reason.
        problem: String,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// How many ids there are.
        vocab_size: usize,
    },
    /// The decoder of tokenizer.json failed.
    #[error("cannot turn tokens into text: {0}")]
    Decode(String),
    /// A prompt template that cannot be laid out.
    #[error("prompt.template {template:?}: {problem}")]
    Template {
        /// The template.
        template: String,
        /// What is wrong.
        problem: String,
    },
}

/// A result of the text side.
pub type Result<T> = std::result::Result<T, TextError>;
