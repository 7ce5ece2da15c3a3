//! One training example.

use std::borrow::Cow;

use super::emotion::Emotion;

/// A question, spoken or (text-only) written, and what belongs to it. Strings are borrowed from the corpus, audio
/// from the memory map where it lies in a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Utterance<'a> {
    /// Its name.
    pub id: &'a str,
    /// What is said.
    pub text: &'a str,
    /// The answer to be given.
    pub response: Option<&'a str>,
    /// How it is said.
    pub emotion: Option<Emotion>,
    /// Who speaks.
    pub speaker: Option<&'a str>,
    /// What stands in place of speech where there is none.
    pub context: Option<&'a str>,
    /// 16 kHz mono samples; none for a text-only utterance.
    pub audio: Cow<'a, [i16]>,
}

impl Utterance<'_> {
    /// Whether there is no speech.
    pub fn is_text_only(&self) -> bool {
        self.audio.is_empty()
    }
}
