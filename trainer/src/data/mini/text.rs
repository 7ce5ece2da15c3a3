//! Text that looks like a speech embedding: characters said several times over, with filler between. A decoder trained to
//! read it copies what it is given instead of reciting sentences, and obeys an emotion in front.

use super::config::{MiniConfig, Range, TextConfig};
use super::plan::{Split, random_string};
use super::script::Script;
use crate::data::draw::Draws;
use crate::data::emotion::Emotion;
use serde::Serialize;

/// One line of `text.jsonl`: a decoder is given BOS and `context`, and learns to write `text`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// An emotion where there is one, noisy text in place of speech, the prompt.
    pub context: String,
    /// The clean text, or the response.
    pub text: String,
}

/// All lines. Held-out sentences give none, and no random string contains one.
pub fn lines(config: &MiniConfig, script: &Script, split: &Split<'_>) -> Vec<Line> {
    let characters = script.distinct_characters();
    let keys: Vec<&str> = script.keys().collect();
    let draws = Draws::new(config.seed, "text");
    let source = Source { config: &config.text, script, split, characters, keys };
    let count = if split.known.is_empty() { 0 } else { config.counts.text };
    (0..count).map(|index| source.line(&mut draws.item(index))).collect()
}

struct Source<'a> {
    config: &'a TextConfig,
    script: &'a Script,
    split: &'a Split<'a>,
    characters: Vec<char>,
    keys: Vec<&'a str>,
}

impl Source<'_> {
    fn line(&self, draws: &mut Draws) -> Line {
        let emotion = Emotion::ALL[draws.below(Emotion::ALL.len())];
        let random = draws.chance(self.config.random);
        if draws.chance(self.config.respond) {
            let (said, key) = if random { self.key_in_random(draws) } else { self.sentence(draws) };
            let context = format!("{emotion}{}{}", self.noisy(&said, draws), self.config.respond_prompt);
            return Line { context, text: self.script.response(&key, emotion).into() };
        }
        let said = if random { self.random(draws) } else { self.sentence(draws).0 };
        let mark = if draws.chance(self.config.marked) { emotion.name() } else { "" };
        let context = format!("{mark}{}{}", self.noisy(&said, draws), self.config.transcribe_prompt);
        Line { context, text: said }
    }

    /// A known sentence and its key word.
    fn sentence(&self, draws: &mut Draws) -> (String, String) {
        let sentence = self.split.known[draws.below(self.split.known.len())];
        (sentence.text.clone(), sentence.key.clone())
    }

    /// A key word among random characters, and the key word.
    fn key_in_random(&self, draws: &mut Draws) -> (String, String) {
        loop {
            let key = self.keys[draws.below(self.keys.len())];
            let [before, after] = [0, 1].map(|_| random_string(&self.characters, Range(0, 3), draws));
            let said = format!("{before}{key}{after}");
            if self.keys.iter().filter(|k| said.contains(**k)).count() == 1 && !self.split.reveals(&said) {
                return (said, key.into());
            }
        }
    }

    fn random(&self, draws: &mut Draws) -> String {
        loop {
            let said = random_string(&self.characters, self.config.random_length, draws);
            if !self.split.reveals(&said) {
                return said;
            }
        }
    }

    /// Each character several times; filler around, and always between two equal characters, or nobody could
    /// tell one from two.
    fn noisy(&self, said: &str, draws: &mut Draws) -> String {
        let fillers: Vec<char> = self.config.fillers.chars().collect();
        let mut out = random_string(&fillers, self.config.filler, draws);
        let mut last = None;
        for character in said.chars() {
            let least = usize::from(last == Some(character));
            let Range(low, high) = self.config.filler;
            let filler = Range(low.max(least), high.max(least));
            if last.is_some() {
                out.push_str(&random_string(&fillers, filler, draws));
            }
            last = Some(character);
            for repetition in 0..draws.within(self.config.repeat) {
                let other = repetition > 0 && draws.chance(self.config.substitute);
                let shown = if other { draws.pick(&self.characters) } else { None };
                out.push(*shown.unwrap_or(&character));
            }
        }
        out + &random_string(&fillers, self.config.filler, draws)
    }
}
