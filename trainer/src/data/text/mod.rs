//! Text: tokens, streamed decoding, the prompt and how a sequence is laid out.

mod error;
mod prompt;
mod sentencepiece;
mod stream;
mod tokenizer;

pub use error::{Result, TextError};
pub use prompt::{Layout, Part, PromptConfig, RESPOND, TRANSCRIBE};
pub use stream::DecodeStream;
pub use tokenizer::Tokenizer;
