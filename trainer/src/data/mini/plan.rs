//! What is to be spoken by whom, decided before anything is: a pure function of the configuration and the sentences.

use super::config::{MiniConfig, Range};
use super::error::MiniError;
use super::phonetics::Syllable;
use super::script::{Script, Sentence};
use crate::data::draw::Draws;
use crate::data::emotion::Emotion;
use std::collections::{BTreeMap, BTreeSet};

/// One manifest of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Renditions to train on.
    Train,
    /// Renditions to validate on.
    Valid,
    /// Unheard renditions of known sentences.
    TestKnown,
    /// Sentences seen in no training.
    TestUnseen,
    /// Two emotions for the same words and speaker, on consecutive lines.
    Pairs,
    /// Single syllables, words, random strings.
    Words,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Train, Self::Valid, Self::TestKnown, Self::TestUnseen, Self::Pairs, Self::Words];

    /// The stem of the manifest and the directory of its recordings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::TestKnown => "test_known",
            Self::TestUnseen => "test_unseen",
            Self::Pairs => "pairs",
            Self::Words => "words",
        }
    }
}

/// One utterance.
#[derive(Clone, Debug)]
pub struct Job {
    /// The manifest it belongs to.
    pub part: Part,
    /// Unique in the corpus; with text, emotion and voice it decides how this rendition sounds.
    pub id: String,
    /// The characters.
    pub text: String,
    /// One syllable per character.
    pub reading: Vec<Syllable>,
    /// What is answered; none for words.
    pub response: Option<String>,
    /// How it is spoken.
    pub emotion: Emotion,
    /// Index into the configuration's voices.
    pub voice: usize,
}

/// The sentences of the script, split.
pub struct Split<'a> {
    /// May be trained on.
    pub known: Vec<&'a Sentence>,
    /// Must not be, in speech or text.
    pub unseen: Vec<&'a Sentence>,
}

impl<'a> Split<'a> {
    /// Holds out sentences in an order seeded by `split.seed` alone: at most one per key word, and only where every one of its
    /// characters is also in a known sentence, so that what is new is the sentence. An error if there are too few.
    pub fn new(config: &MiniConfig, script: &'a Script) -> Result<Self, MiniError> {
        let mut order: Vec<&Sentence> = script.sentences.iter().collect();
        Draws::new(config.split.seed, "split").shuffle(&mut order);
        let mut left: BTreeMap<char, usize> = BTreeMap::new();
        for character in order.iter().flat_map(|s| s.characters()) {
            *left.entry(character).or_default() += 1;
        }
        let (mut keys, mut held) = (BTreeSet::new(), BTreeSet::new());
        for sentence in order {
            if held.len() < config.split.unseen_sentences
                && !keys.contains(&sentence.key)
                && sentence.characters().iter().all(|c| left.get(c).is_some_and(|&sentences| sentences > 1))
            {
                keys.insert(&sentence.key);
                held.insert(&sentence.text);
                sentence.characters().iter().for_each(|c| *left.entry(*c).or_default() -= 1);
            }
        }
        if held.len() < config.split.unseen_sentences {
            return Err(MiniError::Split { wanted: config.split.unseen_sentences, found: held.len() });
        }
        let (unseen, known) = script.sentences.iter().partition(|s| held.contains(&s.text));
        Ok(Self { known, unseen })
    }

    /// Whether `text` gives a held-out sentence away.
    pub fn reveals(&self, text: &str) -> bool {
        self.unseen.iter().any(|s| text.contains(&s.text))
    }
}

/// Every utterance of the corpus, in the order of the manifests.
pub fn plan(config: &MiniConfig, script: &Script, split: &Split<'_>) -> Vec<Job> {
    let counts = &config.counts;
    let both: Vec<&Sentence> = interleave(&split.known, &split.unseen, Draws::new(config.seed, "pairs"));
    let mut jobs = Vec::new();
    for (part, count, sentences) in [
        (Part::Train, counts.train, &split.known),
        (Part::Valid, counts.valid, &split.known),
        (Part::TestKnown, counts.test_known, &split.known),
        (Part::TestUnseen, counts.test_unseen, &split.unseen),
    ] {
        jobs.extend(renditions(config, script, part, count, sentences));
    }
    jobs.extend(pairs(config, script, &both));
    jobs.extend(words(config, script, split));
    jobs
}

/// Goes round and round the shuffled sentences; each round gives every sentence another emotion.
fn renditions(config: &MiniConfig, script: &Script, part: Part, count: usize, sentences: &[&Sentence]) -> Vec<Job> {
    let draws = Draws::new(config.seed, part.name());
    let mut order: Vec<usize> = (0..sentences.len()).collect();
    draws.clone().shuffle(&mut order);
    let count = if sentences.is_empty() { 0 } else { count };
    (0..count)
        .map(|index| {
            let (round, place) = (index / order.len(), index % order.len());
            let emotion = Emotion::ALL[(round + place) % Emotion::ALL.len()];
            let mut draws = draws.item(index);
            let voice = draws.weighted(&shares(config));
            let id = format!("{}-{index:05}", part.name());
            sentence_job(script, part, id, sentences[order[place]], emotion, voice)
        })
        .collect()
}

fn pairs(config: &MiniConfig, script: &Script, sentences: &[&Sentence]) -> Vec<Job> {
    let draws = Draws::new(config.seed, Part::Pairs.name());
    let count = if sentences.is_empty() { 0 } else { config.counts.pairs };
    (0..count)
        .flat_map(|index| {
            let mut draws = draws.item(index);
            let voice = draws.weighted(&shares(config));
            let mut emotions = Emotion::ALL;
            draws.shuffle(&mut emotions);
            let sentence = sentences[index % sentences.len()];
            ["a", "b"].into_iter().zip(emotions).map(move |(letter, emotion)| {
                let id = format!("{}-{index:05}-{letter}", Part::Pairs.name());
                sentence_job(script, Part::Pairs, id, sentence, emotion, voice)
            })
        })
        .collect()
}

/// Characters, words and random strings in turn, none of which is or contains a held-out sentence.
fn words(config: &MiniConfig, script: &Script, split: &Split<'_>) -> Vec<Job> {
    let characters = script.distinct_characters();
    let draws = Draws::new(config.seed, Part::Words.name());
    let count = if characters.is_empty() || split.known.is_empty() { 0 } else { config.counts.words };
    (0..count)
        .map(|index| {
            let mut draws = draws.item(index);
            let (text, reading) = loop {
                let word = match index % 3 {
                    0 => alone(script, characters[(index / 3) % characters.len()].to_string()),
                    1 => piece(&split.known, &mut draws),
                    _ => alone(script, random_string(&characters, config.words.random_length, &mut draws)),
                };
                if !split.reveals(&word.0) {
                    break word;
                }
            };
            let emotion = Emotion::ALL[(index / 3) % Emotion::ALL.len()];
            let voice = draws.weighted(&shares(config));
            let id = format!("{}-{index:05}", Part::Words.name());
            Job { part: Part::Words, id, text, reading, response: None, emotion, voice }
        })
        .collect()
}

/// Characters drawn without regard to meaning.
pub fn random_string(characters: &[char], length: Range, draws: &mut Draws) -> String {
    let length = draws.within(length);
    (0..length).filter_map(|_| draws.pick(characters)).collect()
}

fn alone(script: &Script, text: String) -> (String, Vec<Syllable>) {
    let reading = text.chars().filter_map(|c| script.reading(c)).collect();
    (text, reading)
}

/// Two or three neighbouring characters of a known sentence, read as there.
fn piece(known: &[&Sentence], draws: &mut Draws) -> (String, Vec<Syllable>) {
    let sentence = known[draws.below(known.len())];
    let length = draws.within(Range(2, 3)).min(sentence.reading.len());
    let from = draws.below(sentence.reading.len() - length + 1);
    let text = sentence.text.chars().skip(from).take(length).collect();
    (text, sentence.reading[from..from + length].to_vec())
}

fn sentence_job(script: &Script, part: Part, id: String, sentence: &Sentence, emotion: Emotion, voice: usize) -> Job {
    Job {
        part,
        id,
        text: sentence.text.clone(),
        reading: sentence.reading.clone(),
        response: Some(script.response(&sentence.key, emotion).into()),
        emotion,
        voice,
    }
}

fn shares(config: &MiniConfig) -> Vec<f64> {
    config.voice.iter().map(|v| v.share).collect()
}

/// A known sentence, an unseen one, a known one, …, each side shuffled and as long as the shorter.
fn interleave<'a>(known: &[&'a Sentence], unseen: &[&'a Sentence], mut draws: Draws) -> Vec<&'a Sentence> {
    let (mut known, mut unseen) = (known.to_vec(), unseen.to_vec());
    draws.shuffle(&mut known);
    draws.shuffle(&mut unseen);
    known.into_iter().zip(unseen).flat_map(|(k, u)| [k, u]).collect()
}
