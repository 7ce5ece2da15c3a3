//! Why no corpus was built; each message is one line that says what to do.

use std::path::{Path, PathBuf};

/// Why no corpus was built.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// A configuration that does not parse, or says something impossible.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// A file or directory that could not be read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A text that cannot be used.
    #[error("{at}: {problem}")]
    Text {
        /// File and line.
        at: String,
        /// What is wrong with it.
        problem: TextProblem,
    },
    /// A part of the corpus without a single text, or larger than all of them.
    #[error("the part `{part}` would have {wanted} of {found} texts: change [split] or give more texts")]
    Part {
        /// Its name.
        part: String,
        /// Its size.
        wanted: usize,
        /// Texts there are.
        found: usize,
    },
    /// No key for an endpoint.
    #[error("no key for {url}: set the environment variable {variable}, or name a file in `{section}.key_file`")]
    NoKey {
        /// The endpoint.
        url: String,
        /// The variable looked at.
        variable: String,
        /// The section of the configuration.
        section: &'static str,
    },
    /// A key that cannot be one.
    #[error("the key in {place} is empty or holds spaces or other characters no key has: write the key alone")]
    BadKey {
        /// The variable or file; never the key.
        place: String,
    },
    /// The server does not let us in: every further request would be refused too.
    #[error("{url} refused the key ({status}): {message}; check the key and what it may be used for, then run again")]
    Denied {
        /// The endpoint.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said, without the key.
        message: String,
    },
    /// The backend's program does not start.
    #[error("cannot run {program}: {reason}; install it, or change `speech.command.run`")]
    Program {
        /// The program.
        program: String,
        /// What the operating system said.
        reason: std::io::Error,
    },
    /// Too many texts without response or recording.
    #[error(
        "{bad} of {total} texts have no {what}, more than the allowed share of {share}; the first is {example}; what was made is kept: \
         mend the cause or raise `limits.max_bad_share`, then run again"
    )]
    TooManyBad {
        /// How many so far.
        bad: usize,
        /// Of how many.
        total: usize,
        /// "response" or "recording".
        what: &'static str,
        /// What is allowed.
        share: f64,
        /// One of them, and why.
        example: String,
    },
    /// The output directory holds something else.
    #[error("{path} is not empty and no run of `echat synth`: name a new directory", path = .0.display())]
    NotEmpty(PathBuf),
    /// The output directory holds a run that asked for something else.
    #[error(
        "{path} was made with another `{key}`: name a new directory, or give --accept-changes to make anew what that changes", path = .path.display()
    )]
    Changed {
        /// The directory.
        path: PathBuf,
        /// The first key that differs.
        key: String,
    },
    /// Somebody else is at it.
    #[error("another `echat synth` is writing to {path}: wait for it, or stop it", path = .0.display())]
    Busy(PathBuf),
    /// A journal line, other than a torn last one, that does not parse.
    #[error("{path}:{line}: not a line of the journal ({reason}): restore the file, or remove the line", path = .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// Sizes of parts that cannot be.
    #[error(transparent)]
    Split(#[from] crate::data::split::SplitError),
    /// The shards could not be made.
    #[error(transparent)]
    Prepare(#[from] crate::data::prepare::PrepareError),
    /// Another thread found an error, which is the one to report.
    #[error("stopped")]
    Halted,
}

/// What is wrong with a text.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TextProblem {
    /// A file of another kind.
    #[error("texts are .tsv files with a header line, or .jsonl files")]
    Kind,
    /// Bytes that are no UTF-8.
    #[error("not UTF-8: save the file as UTF-8")]
    Encoding,
    /// A file without texts.
    #[error("holds no texts")]
    Nothing,
    /// A header without a column that must be there.
    #[error("has no column `{column}`; it has {found}: correct the header, or `texts.columns`")]
    Column {
        /// The column.
        column: String,
        /// Those there are.
        found: String,
    },
    /// A line with more or fewer fields than the header.
    #[error("{found} fields, but the header has {wanted}")]
    Fields {
        /// On the line.
        found: usize,
        /// In the header.
        wanted: usize,
    },
    /// A line that is no JSON object.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// A key that must be there is not, or is no string.
    #[error("`{0}` is missing or no string")]
    Key(String),
    /// Nothing to say.
    #[error("the text is empty")]
    Empty,
    /// A character no voice can say.
    #[error("the text holds the control character {0:?}")]
    Control(char),
    /// An emotion that is none of the five and not in `texts.emotions`.
    #[error("{0}, or be translated in `texts.emotions`")]
    Emotion(#[from] crate::data::emotion::UnknownEmotion),
    /// An id that was used before.
    #[error("the id `{id}` was used at {first} already; ids must be unique")]
    Duplicate {
        /// The id.
        id: String,
        /// File and line of the first.
        first: String,
    },
    /// An id that names no file.
    #[error(
        "the id `{0}` cannot be a file name: use at most 200 bytes, no `/`, no control characters, no dot in front"
    )]
    Id(String),
}

impl SynthError {
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.into(), source }
    }
}
