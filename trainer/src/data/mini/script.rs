//! What is said and what is answered: sentences, key words, responses, readings (`configs/mini/sentences.toml`).

use super::error::MiniError;
use super::phonetics::Syllable;
use crate::config::{Loaded, load, section};
use crate::data::emotion::Emotion;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

section! {
    /// The sentence file as written.
    struct ScriptFile {
        /// Readings that differ from the pinyin crate's first one, as `觉jiao4 乐yue4`.
        readings: String,
        /// What can be talked about.
        topic: Vec<TopicFile>,
    }
}

section! {
    /// Sentences whose key words share five ways of answering.
    struct TopicFile {
        /// What it is about.
        name: String,
        /// Words of which each sentence contains exactly one.
        keys: Vec<String>,
        /// The response to a cheerful speaker; {} stands for the key word.
        cheerful: String,
        /// The response to a fearful speaker.
        fearful: String,
        /// The response to an angry speaker.
        angry: String,
        /// The response to a sad speaker.
        sad: String,
        /// The response to a neutral speaker.
        neutral: String,
        /// What is said, readings in brackets where a character has another than usual: 太长(chang2)了.
        sentences: Vec<String>,
    }
}

impl TopicFile {
    /// In the order of the emotions' ids.
    fn templates(&self) -> [&String; 5] {
        Emotion::ALL.map(|emotion| match emotion {
            Emotion::Cheerful => &self.cheerful,
            Emotion::Fearful => &self.fearful,
            Emotion::Angry => &self.angry,
            Emotion::Sad => &self.sad,
            Emotion::Neutral => &self.neutral,
        })
    }
}

/// One sentence of the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The characters.
    pub text: String,
    /// One syllable per character.
    pub reading: Vec<Syllable>,
    /// The key word in it.
    pub key: String,
}

impl Sentence {
    /// The characters in it, each once.
    pub fn characters(&self) -> BTreeSet<char> {
        self.text.chars().collect()
    }
}

/// All sentences, and the response to each key word in each emotion.
#[derive(Clone, Debug)]
pub struct Script {
    /// In the order of the file.
    pub sentences: Vec<Sentence>,
    /// Key word → responses by emotion id.
    responses: BTreeMap<String, [String; 5]>,
    readings: BTreeMap<char, Syllable>,
}

impl Script {
    /// Reads and checks a sentence file.
    pub fn load(path: &Path) -> Result<Self, MiniError> {
        let loaded: Loaded<ScriptFile> = load(path, &[])?;
        let mut script = Self { sentences: Vec::new(), responses: BTreeMap::new(), readings: BTreeMap::new() };
        script.fill(&loaded.config).map_err(|(key, problem)| loaded.invalid(&key, problem))?;
        Ok(script)
    }

    /// Takes over what the file says; an error is the key at fault and what is wrong with it.
    fn fill(&mut self, file: &ScriptFile) -> Result<(), (String, String)> {
        self.readings = overrides(&file.readings).map_err(|problem| ("readings".to_string(), problem))?;
        for (i, topic) in file.topic.iter().enumerate() {
            self.answers(topic).map_err(|(key, problem)| (format!("topic[{i}].{key}"), problem))?;
        }
        let mut seen = BTreeSet::new();
        for (i, topic) in file.topic.iter().enumerate() {
            for (j, line) in topic.sentences.iter().enumerate() {
                let wrong = |problem| (format!("topic[{i}].sentences[{j}]"), problem);
                let sentence = self.sentence(line).map_err(wrong)?;
                if !topic.keys.contains(&sentence.key) {
                    return Err(wrong(format!("`{line}` has the key word {} of another topic", sentence.key)));
                }
                if !seen.insert(sentence.text.clone()) {
                    return Err(wrong(format!("`{line}` is given twice")));
                }
                self.sentences.push(sentence);
            }
        }
        Ok(())
    }

    fn answers(&mut self, topic: &TopicFile) -> Result<(), (String, String)> {
        for (emotion, template) in Emotion::ALL.into_iter().zip(topic.templates()) {
            if template.matches("{}").count() != 1 {
                return Err((emotion.to_string(), format!("`{template}` must contain {{}} once")));
            }
        }
        for (i, key) in topic.keys.iter().enumerate() {
            let responses = topic.templates().map(|t| t.replace("{}", key));
            if self.responses.insert(key.clone(), responses).is_some() {
                return Err((format!("keys[{i}]"), format!("the key word {key} is given twice")));
            }
        }
        Ok(())
    }

    /// Parses `袜子太长(chang2)了` and finds its key word.
    fn sentence(&self, line: &str) -> Result<Sentence, String> {
        let mut text = String::new();
        let mut reading: Vec<Syllable> = Vec::new();
        let mut rest = line;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            if character == '(' {
                let (given, after) = rest.split_once(')').ok_or_else(|| format!("`{line}`: `(` without `)`"))?;
                let last = reading.last_mut().ok_or_else(|| format!("`{line}`: a reading before any character"))?;
                *last = Syllable::parse(given).ok_or_else(|| format!("`{line}`: `{given}` is no pinyin syllable"))?;
                rest = after;
            } else {
                reading.push(self.reading(character).ok_or_else(|| format!("`{line}`: no reading for {character}"))?);
                text.push(character);
            }
        }
        let keys: Vec<&String> = self.responses.keys().filter(|key| text.contains(key.as_str())).collect();
        match keys.as_slice() {
            [key] => Ok(Sentence { text, reading, key: (*key).clone() }),
            [] => Err(format!("`{line}` contains no key word")),
            several => Err(format!("`{line}` contains several key words: {several:?}")),
        }
    }

    /// How a character is read when it stands alone.
    pub fn reading(&self, character: char) -> Option<Syllable> {
        self.readings.get(&character).cloned().or_else(|| Syllable::of(character))
    }

    /// The response to a sentence with key word `key`, spoken with `emotion`.
    pub fn response(&self, key: &str, emotion: Emotion) -> &str {
        self.responses.get(key).map_or("", |r| &r[emotion as usize])
    }

    /// The key words, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.responses.keys().map(String::as_str)
    }

    /// Every character of sentences and responses, sorted.
    pub fn characters(&self) -> BTreeSet<char> {
        let responses = self.responses.values().flatten().flat_map(|r| r.chars());
        self.sentences.iter().flat_map(|s| s.text.chars()).chain(responses).collect()
    }

    /// One character per way of reading it, the most frequent one in the sentences: in a random string nothing
    /// else could tell homophones apart.
    pub fn distinct_characters(&self) -> Vec<char> {
        let mut counts: BTreeMap<char, usize> = BTreeMap::new();
        for character in self.sentences.iter().flat_map(|s| s.text.chars()) {
            *counts.entry(character).or_default() += 1;
        }
        let mut by_reading: BTreeMap<Syllable, (usize, char)> = BTreeMap::new();
        for (character, count) in counts {
            if let Some(syllable) = self.reading(character) {
                let best = by_reading.entry(syllable).or_insert((count, character));
                *best = (*best).max((count, character));
            }
        }
        by_reading.into_values().map(|(_, character)| character).collect()
    }
}

fn overrides(readings: &str) -> Result<BTreeMap<char, Syllable>, String> {
    let parse = |entry: &str| {
        let character = entry.chars().next()?;
        Some((character, Syllable::parse(&entry[character.len_utf8()..])?))
    };
    readings
        .split_whitespace()
        .map(|entry| parse(entry).ok_or_else(|| format!("`{entry}` is not a character and its pinyin")))
        .collect()
}
