//! Streamed decoding: the text of a growing token list, character by whole character.

use super::{Result, Tokenizer};

/// Turns tokens into text as they come; see [`Tokenizer::decode_stream`].
///
/// What all calls returned, joined, is what [`Tokenizer::decode`] gives for all tokens at once.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens of the last text put out, then those not yet put out.
    ids: Vec<u32>,
    /// The text of the former: decoding needs them before the latter, since the first token of a text may lose its space.
    shown: String,
    shown_ids: usize,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), shown: String::new(), shown_ids: 0 }
    }

    /// Takes one token and returns the text that is now certain; empty if it may be part of a character.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // U+FFFD at the end may be the first bytes of a character.
        if text.len() <= self.shown.len() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let fresh = text.get(self.shown.len()..).unwrap_or_default().to_string();
        let tail = self.tokenizer.decode(&self.ids[self.shown_ids..])?;
        if tail.is_empty() {
            // Only white space, which would be lost at the start: keep what is before it.
            self.shown = text;
        } else {
            self.ids.drain(..self.shown_ids);
            self.shown = tail;
        }
        self.shown_ids = self.ids.len();
        Ok(fresh)
    }

    /// What was held back, at the end of the tokens.
    ///
    /// # Errors
    /// None beyond those of [`push`](Self::push).
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.shown.len()..).unwrap_or_default().to_string())
    }
}
