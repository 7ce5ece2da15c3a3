//! What the decoder is asked, and how one sequence is laid out.

use super::{Result, TextError, Tokenizer};
use crate::config::section;

/// The request of stage 1, speech recognition (section 3.3 of the E-chat paper).
pub const TRANSCRIBE: &str = "Transcribe the speech.";
/// The request of stage 2, emotional dialogue.
pub const RESPOND: &str =
    "You are requested to provide a comforting response based on the emotion conveyed in this speech.";

section! {
    /// What the decoder is asked, and how a sequence is laid out before the target tokens and EOS.
    pub struct PromptConfig {
        /// The request, put at `{prompt}`. The paper's stage 2 asks "You are requested to provide a comforting response based on
        /// the emotion conveyed in this speech."
        pub text: String = TRANSCRIBE.into(),
        /// The order of the parts: `{bos}`, `{emotion}` (the emotion token, where the model has one), `{speech}`, `{prompt}`, each at
        /// most once. Other text is tokenized as it stands; special tokens written in it, such as `<reserved_106>`, become their ids.
        pub template: String = "{bos}{emotion}{speech}{prompt}".into(),
    }
}

/// One part of a sequence before its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The begin-of-sequence token, by id.
    Bos(u32),
    /// One emotion token; absent if the model has no emotion branch.
    Emotion,
    /// The speech embedding.
    Speech,
    /// Text tokens.
    Tokens(Vec<u32>),
}

/// The parts of a sequence before its target tokens and EOS, in order; each but `Tokens` at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The parts.
    pub parts: Vec<Part>,
}

const PLACES: [&str; 4] = ["{bos}", "{emotion}", "{speech}", "{prompt}"];

impl Layout {
    /// Reads the template and tokenizes its text with the prompt in place.
    ///
    /// # Errors
    /// An unknown or repeated `{placeholder}`, `{bos}` for a tokenizer without BOS, text that cannot be tokenized.
    pub fn new(config: &PromptConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let template = config.template.as_str();
        let fail = |problem: String| TextError::Template { template: template.into(), problem };
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut seen = Vec::new();
        let mut rest = template;
        while let Some(first) = rest.chars().next() {
            let Some(place) = placeholder(rest) else {
                text.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            };
            rest = &rest[place.len()..];
            if seen.contains(&place) {
                return Err(fail(format!("{place} is there twice")));
            }
            seen.push(place);
            let part = match place {
                "{bos}" => match tokenizer.bos() {
                    Some(id) => Part::Bos(id),
                    None => return Err(fail("the tokenizer has no BOS token; leave {bos} out".into())),
                },
                "{emotion}" => Part::Emotion,
                "{speech}" => Part::Speech,
                "{prompt}" => {
                    text.push_str(&config.text);
                    continue;
                }
                _ => return Err(fail(format!("{place} is unknown; use {}", PLACES.join(", ")))),
            };
            push_text(&mut parts, &mut text, tokenizer)?;
            parts.push(part);
        }
        push_text(&mut parts, &mut text, tokenizer)?;
        Ok(Self { parts })
    }

    /// Whether the emotion token has a place.
    pub fn has_emotion(&self) -> bool {
        self.parts.contains(&Part::Emotion)
    }

    /// Whether the speech embedding has a place.
    pub fn has_speech(&self) -> bool {
        self.parts.contains(&Part::Speech)
    }

    /// Tokens before the target, besides the speech embedding and the emotion token.
    pub fn num_tokens(&self) -> usize {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Bos(_) => 1,
                Part::Tokens(ids) => ids.len(),
                Part::Emotion | Part::Speech => 0,
            })
            .sum()
    }
}

/// `{word}` at the start of `text`; other braces are text.
fn placeholder(text: &str) -> Option<&str> {
    let inner = &text.strip_prefix('{')?[..text.find('}')?.checked_sub(1)?];
    let is_word = !inner.is_empty() && inner.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_word.then(|| &text[..inner.len() + 2])
}

fn push_text(parts: &mut Vec<Part>, text: &mut String, tokenizer: &Tokenizer) -> Result<()> {
    let ids = tokenizer.encode_template(text)?;
    text.clear();
    if !ids.is_empty() {
        parts.push(Part::Tokens(ids));
    }
    Ok(())
}
