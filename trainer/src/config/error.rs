//! What can be wrong with a configuration, each in one line: where, which key, what to do.

use std::{fmt, io, path::PathBuf};

/// Where a key got its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, counted from 1.
    File(PathBuf, usize),
    /// A `--set` argument, as given.
    Set(String),
    /// The file as a whole: the key is not written anywhere.
    Absent(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Set(argument) => write!(f, "--set {argument}"),
            Self::Absent(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An error in a configuration file or a `--set` argument.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{at}: not valid TOML: {problem}")]
    Syntax {
        /// The line.
        at: Origin,
        /// What the parser expected.
        problem: String,
    },
    /// `base` is not a string, or the chain of bases returns to itself.
    #[error("{at}: {problem}")]
    Base {
        /// The line of the `base` key.
        at: Origin,
        /// What is wrong.
        problem: String,
    },
    /// A `--set` argument is not `section.key=value`.
    #[error("--set {argument}: expected section.key=value")]
    BadSet {
        /// The argument.
        argument: String,
    },
    /// The value of a `--set` argument begins as a string of TOML and is none.
    #[error(
        "--set {argument}: the value begins with a quote but is no TOML string; write it without quotes, or escape those inside"
    )]
    BadQuotes {
        /// The argument.
        argument: String,
    },
    /// A key no section has.
    #[error("{at}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// Where it is written.
        at: Origin,
        /// The full key.
        key: String,
        /// The nearest valid key, or the list of valid ones.
        hint: String,
    },
    /// A value of the wrong type.
    #[error("{at}: `{key}` expects {expected}, found {found}")]
    WrongType {
        /// Where it is written.
        at: Origin,
        /// The full key.
        key: String,
        /// The type or the choices.
        expected: String,
        /// The value.
        found: String,
    },
    /// A key without a default is absent.
    #[error("{at}: missing required key `{key}` ({doc})")]
    Missing {
        /// The file.
        at: Origin,
        /// The full key.
        key: String,
        /// What the key means.
        doc: String,
    },
    /// A value of the right type that makes no sense.
    #[error("{at}: `{key}`: {problem}")]
    Invalid {
        /// Where it is written.
        at: Origin,
        /// The full key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration cannot be written as TOML.
    #[error("cannot write the configuration as TOML: {0}")]
    Write(String),
}
