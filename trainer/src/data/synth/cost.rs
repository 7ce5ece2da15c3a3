//! What a corpus costs: an estimate before, the sum after.

use super::chat::{self, Usage};
use super::config::{PricesConfig, SynthConfig};
use super::error::SynthError;
use super::journal::Known;
use super::place::{Found, Place, identity};
use super::work::Work;
use super::{sizes, texts};
use crate::data::emotion::Emotion;
use serde::Serialize;
use std::path::Path;

/// What was or would be paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of responses.
    pub response_tokens: u64,
    /// Characters spoken, as billed.
    pub characters: u64,
    /// By `[prices]`.
    pub responses: f64,
    /// By `[prices]`.
    pub speech: f64,
}

impl Cost {
    /// Of so many tokens and characters.
    pub fn of(prices: &PricesConfig, usage: Usage, characters: u64) -> Self {
        let (prompt_tokens, response_tokens) = (usage.prompt_tokens, usage.completion_tokens);
        let responses =
            prompt_tokens as f64 * prices.prompt_per_1k_tokens + response_tokens as f64 * prices.response_per_1k_tokens;
        let speech = characters as f64 * prices.speech_per_1m_characters / 1e6;
        Self { prompt_tokens, response_tokens, characters, responses: responses / 1e3, speech }
    }

    /// Both.
    pub fn sum(&self) -> f64 {
        self.responses + self.speech
    }
}

/// What a run would have to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Texts of each emotion, by id.
    pub emotions: [usize; 5],
    /// The parts and their sizes, if nothing fails.
    pub parts: Vec<(String, usize)>,
    /// Responses that are there (of the texts or journalled), and those to be asked for.
    pub responses: (usize, usize),
    /// Recordings that are there, and those to be made.
    pub recordings: (usize, usize),
    /// Of what is to be done.
    pub cost: Cost,
    /// Minutes the rate limits allow it to be done in, at least.
    pub minutes: f64,
}

/// What it would take to build the corpus of `config` in `out`, given what is there. Sends and writes nothing, needs no key.
pub fn estimate(config: &SynthConfig, out: &Path, accept_changes: bool) -> Result<Estimate, SynthError> {
    let items = texts::read(&config.texts)?;
    let parts = sizes(config, &items)?;
    let place = Place::new(out);
    if let (Found::Other(key), false) = (place.look(&identity(config, &items, &parts))?, accept_changes) {
        return Err(SynthError::Changed { path: out.into(), key });
    }
    let known = Known::read(&place.journal())?;
    let work = Work { config, items: &items, place: &place, known: &known };
    let (asked, spoken) = (work.lacking_responses(), work.lacking_speech(0..items.len()));
    let mut usage = Usage::default();
    for (open, chat) in asked.open.iter().flat_map(|open| config.chat.iter().map(move |chat| (open, chat))) {
        let messages = chat::messages(chat, open.item);
        // Each message is framed by four tokens, the response begun by three.
        usage.prompt_tokens += 3 + messages.iter().map(|(_, text)| 4 + tokens(text)).sum::<u64>();
    }
    let seen = known.responses.len() as f64;
    let each = if seen > 0.0 { known.usage.completion_tokens as f64 / seen } else { config.prices.response_tokens };
    usage.completion_tokens = (each * asked.open.len() as f64).round() as u64;
    let characters = spoken.open.iter().map(|open| open.question.billed(&config.speech)).sum();
    let at = |count: usize, per_minute: f64| if per_minute > 0.0 { count as f64 / per_minute } else { 0.0 };
    let billed = characters > 0;
    Ok(Estimate {
        emotions: Emotion::ALL.map(|emotion| items.iter().filter(|item| item.emotion == emotion).count()),
        parts,
        responses: (asked.results.values().filter(|r| matches!(r, Ok(Some(_)))).count(), asked.open.len()),
        recordings: (spoken.results.values().filter(|r| r.is_ok()).count(), spoken.open.len()),
        cost: Cost::of(&config.prices, usage, characters),
        minutes: at(asked.open.len(), config.chat.as_ref().map_or(0.0, |chat| chat.requests_per_minute))
            + if billed { at(spoken.open.len(), config.speech.azure.requests_per_minute) } else { 0.0 },
    })
}

/// About how many tokens a GPT makes of `text`: one for four letters, four for three Chinese characters.
fn tokens(text: &str) -> u64 {
    let (latin, other) =
        text.chars().fold((0u64, 0u64), |(a, b), c| if c.is_ascii() { (a + 1, b) } else { (a, b + 1) });
    latin.div_ceil(4) + (4 * other).div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_tokens_and_characters_by_their_prices() {
        let prices = PricesConfig {
            prompt_per_1k_tokens: 0.5,
            response_per_1k_tokens: 1.5,
            speech_per_1m_characters: 16.0,
            response_tokens: 60.0,
        };
        let cost = Cost::of(&prices, Usage { prompt_tokens: 2_000, completion_tokens: 1_000 }, 500_000);
        assert_eq!((cost.responses, cost.speech, cost.sum()), (2.5, 8.0, 10.5));
    }

    #[test]
    fn tokens_are_estimated_by_script() {
        assert_eq!((tokens(""), tokens("Answer."), tokens("我不开心"), tokens("Text: 好")), (0, 2, 6, 4));
    }
}
