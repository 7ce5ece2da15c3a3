//! The root of a training configuration.

use super::section;
use crate::data::text::PromptConfig;

section! {
    /// Every key a training configuration may have.
    pub struct RunConfig {
        /// What the decoder is asked, and how a sequence is laid out.
        pub prompt: PromptConfig = PromptConfig::default(),
    }
}
