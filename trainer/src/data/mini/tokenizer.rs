//! The miniature's vocabulary: a token per Chinese character, per prompt word, per emotion.

use super::config::MiniConfig;
use super::error::MiniError;
use super::script::Script;
use crate::data::emotion::Emotion;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Special tokens, whose ids are their places: unknown, beginning, end, padding.
pub const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// Words with the space before them, everything else one character at a time.
const PIECES: &str = r" ?[A-Za-z]+|[\s\S]";

/// Every token in the order of the ids: specials, emotions, words of the prompts, then single characters. Depends on no
/// seed, so that corpora made from one sentence file share a vocabulary.
pub fn vocabulary(config: &MiniConfig, script: &Script) -> Vec<String> {
    let prompts = [&config.text.transcribe_prompt, &config.text.respond_prompt];
    let words: BTreeSet<String> = prompts.iter().flat_map(|p| words(p)).collect();
    let mut characters = script.characters();
    characters.extend(config.text.fillers.chars());
    characters.extend(prompts.iter().flat_map(|p| p.chars()).filter(|c| !c.is_ascii_alphabetic()));
    // Punctuation that people put behind what they type.
    characters.extend("，。！？、：；0123456789".chars());
    let mut seen = BTreeSet::new();
    let specials = SPECIAL.map(String::from).into_iter();
    specials
        .chain(Emotion::ALL.map(|e| e.name().to_string()))
        .chain(words)
        .chain(characters.into_iter().map(String::from))
        .filter(|token| seen.insert(token.clone()))
        .collect()
}

/// The words of a prompt, each with the space before it.
fn words(prompt: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for character in prompt.chars().chain(['\0']) {
        if !character.is_ascii_alphabetic() {
            if word.chars().any(|c| c.is_ascii_alphabetic()) {
                words.push(std::mem::take(&mut word));
            }
            word.clear();
        }
        if character == ' ' || character.is_ascii_alphabetic() {
            word.push(character);
        }
    }
    words
}

/// Writes `tokenizer.json` (the `tokenizers` library's format) and `tokenizer_config.json`.
pub fn write(directory: &Path, config: &MiniConfig, script: &Script) -> Result<usize, MiniError> {
    let vocabulary = vocabulary(config, script);
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": SPECIAL[0]},
    });
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[3],
        "add_bos_token": false, "add_eos_token": false, "clean_up_tokenization_spaces": false,
    });
    std::fs::create_dir_all(directory).map_err(MiniError::io("create", directory))?;
    for (name, value) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)] {
        let path = directory.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(MiniError::io("write", &path))?;
    }
    Ok(vocabulary.len())
}
