//! Text: the prompt, and how a sequence is laid out.

mod prompt;

pub use prompt::PromptConfig;
