//! The data plane: from recordings and text to packed batches.

pub mod audio;
pub mod batch;
pub mod corpus;
pub mod emotion;
pub mod loader;
pub mod manifest;
pub mod prepare;
pub mod sampler;
pub mod shard;
pub mod synth;
pub mod text;
pub mod utterance;

use std::path::PathBuf;

use crate::config::{choice, section};

pub use batch::Batch;
pub use corpus::{Corpus, CorpusError, CorpusOptions};
pub use emotion::Emotion;
pub use loader::{Loader, LoaderError, LoaderOptions, Step};
pub use sampler::{Sampler, assign, micro_batches};
pub use utterance::Utterance;

choice! {
    /// What the decoder learns to write.
    pub enum Target {
        /// What is said: transcription.
        Text = "text",
        /// The answer to it.
        Response = "response",
    }
}

impl Target {
    /// The one meant of an utterance's `text` and `response`; empty if it has none.
    pub fn choose<'a>(self, text: &'a str, response: Option<&'a str>) -> &'a str {
        match self {
            Self::Text => text,
            Self::Response => response.unwrap_or_default(),
        }
    }
}

section! {
    /// What is trained on, and in what portions.
    pub struct DataConfig {
        /// Training corpus: JSONL manifests, directories made by `echat prepare`, or single shards; read as one.
        pub train: Vec<PathBuf> = Vec::new(),
        /// Validation corpus, as `train`; without one there is no validation.
        pub valid: Vec<PathBuf> = Vec::new(),
        /// What the decoder learns to write.
        pub target: Target = Target::Text,
        /// Recordings shorter than this many seconds are left out (counted and reported).
        pub min_seconds: f64 = 0.1,
        /// Recordings longer than this many seconds are left out (counted and reported).
        pub max_seconds: f64 = 30.0,
        /// Share of utterances that may be unusable (unreadable, without target) before it is an error; up to it they
        /// are left out, counted and listed.
        pub max_bad_share: f64 = 0.01,
        /// Read every byte of every shard at the start and compare it with its checksum. Without it each utterance is
        /// checked when it is read.
        pub verify: bool = false,
        /// Seconds of speech in a step over all ranks, at most. A character of a text-only utterance counts as 0.2 s.
        pub global_batch_seconds: f64 = 960.0,
        /// Seconds of speech one rank computes at a time, at most; a rank's part of a step is computed in so many pieces,
        /// and their gradients added. Bounds memory, changes no result.
        pub micro_batch_seconds: f64 = 120.0,
        /// Steps each loader thread prepares ahead.
        pub prefetch: usize = 2,
        /// Loader threads per rank. One keeps up with shards; decoding compressed recordings may want more.
        pub threads: usize = 1,
    }
}

impl DataConfig {
    /// What to keep of a corpus.
    pub fn corpus_options(&self) -> CorpusOptions {
        CorpusOptions {
            target: self.target,
            min_seconds: self.min_seconds,
            max_seconds: self.max_seconds,
            max_bad_share: self.max_bad_share,
            verify: self.verify,
        }
    }
}
