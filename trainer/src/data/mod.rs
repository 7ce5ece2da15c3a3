//! The data plane: from recordings and text to packed batches.

pub mod audio;
pub mod batch;
pub mod config;
pub mod corpus;
pub mod draw;
pub mod emotion;
pub mod features;
pub mod loader;
pub mod manifest;
pub mod mini;
pub mod prepare;
pub mod sampler;
pub mod shard;
pub mod shards;
pub mod split;
pub mod stats;
pub mod synth;
pub mod text;
pub mod utterance;
pub mod wav;

use crate::config::choice;

pub use batch::{Batch, Packing};
pub use config::{DataConfig, SettingError};
pub use corpus::{Corpus, CorpusError, CorpusOptions, Placement, PlacementKind};
pub use emotion::Emotion;
pub use loader::{Loader, LoaderError, LoaderOptions, Step};
pub use sampler::{Budget, Cost, Sampler, SamplerOptions, StepPlan, micro_batches};
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
