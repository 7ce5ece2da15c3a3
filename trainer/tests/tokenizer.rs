//! tokenizer.json, and the prompt laid out over any tokenizer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{fs, path::Path};

use echat::data::text::{Layout, Part, PromptConfig, Tokenizer};
use serde_json::json;
use tempfile::TempDir;

/// A character-level tokenizer: `<unk>` `<s>` `</s>` `<user>`, then the characters of `characters`.
fn characters(characters: &str) -> TempDir {
    let mut vocab = serde_json::Map::new();
    let special = ["<unk>", "<s>", "</s>", "<user>"];
    for (id, token) in special.iter().map(ToString::to_string).chain(characters.chars().map(String::from)).enumerate() {
        vocab.insert(token, json!(id));
    }
    let added: Vec<_> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": false},
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}, "unk_token": "<unk>", "pad_token": null}"#,
    )
    .unwrap();
    dir
}

fn load(dir: &TempDir) -> Tokenizer {
    Tokenizer::load(dir.path()).unwrap()
}

#[test]
fn character_level_tokenizer_json() {
    let tokenizer = load(&characters("我很好 ok。"));
    // Longer than the file's truncation, and not padded.
    assert_eq!(tokenizer.encode("我很好 ok？\n我很好").unwrap(), [4, 5, 6, 7, 8, 9, 0, 0, 4, 5, 6]);
    assert_eq!(tokenizer.decode(&[1, 4, 5, 6, 7, 8, 9, 10, 2]).unwrap(), "我很好 ok。");
    assert_eq!((tokenizer.unk(), tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(0), Some(1), Some(2), None));
    assert_eq!(tokenizer.vocab_size(), 11);
    let mut stream = tokenizer.decode_stream();
    let streamed: Vec<String> = [1, 4, 7, 5, 2].map(|id| stream.push(id).unwrap()).to_vec();
    assert_eq!(streamed, ["", "我", " ", "很", ""]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn byte_level_bpe_streams_whole_characters() {
    // GPT-2's byte alphabet maps the bytes of 你 (E4 BD A0) to ä ½ ł.
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"ä": 0, "½": 1, "ł": 2, "a": 3, "ä½": 4}, "merges": [["ä", "½"]]},
    });
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = load(&dir);
    assert_eq!(tokenizer.encode("你a").unwrap(), [4, 2, 3]);
    let mut stream = tokenizer.decode_stream();
    let streamed: Vec<String> = [4, 2, 3, 4].map(|id| stream.push(id).unwrap()).to_vec();
    assert_eq!(streamed, ["", "你", "a", ""]);
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

const ENCODE: &str = r#"
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
print(json.dumps([tokenizer.encode(text, add_special_tokens=False).ids for text in json.loads(sys.argv[2])]))
"#;

#[test]
fn python_encodes_alike_with_the_miniatures_tokenizer() {
    let decoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/mini/decoder");
    let texts = ["我们去看电影", "Transcribe the speech.", "cheerful我们\n😀", ""];
    let tokenizer = Tokenizer::load(&decoder).unwrap();
    let ours: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let Some(mut python) = common::python("tokenizers", "tokenizer.json in Python") else { return };
    let json = serde_json::to_string(&texts).unwrap();
    let out = python.args(["-c", ENCODE]).arg(decoder.join("tokenizer.json")).arg(json).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(serde_json::from_slice::<Vec<Vec<u32>>>(&out.stdout).unwrap(), ours);
}

#[test]
fn no_tokenizer() {
    let error = Tokenizer::load(Path::new("/no/such/model")).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/model: no such directory"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with(" has no tokenizer: expected tokenizer.json or tokenizer.model"), "{error}");
}

#[test]
fn broken_tokenizer_json() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{\"version\":").unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: EOF while parsing"), "{error}");
}

#[test]
fn broken_tokenizer_config() {
    let dir = characters("a");
    fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json: not valid JSON: "), "{error}");
}

#[test]
fn unknown_id() {
    let error = load(&characters("a")).decode(&[9]).unwrap_err().to_string();
    assert_eq!(error, "token id 9 is outside the vocabulary of 5");
}

fn layout(template: &str, text: &str) -> Result<Layout, String> {
    let config = PromptConfig { text: text.into(), template: template.into() };
    Layout::new(&config, &load(&characters("abc{} "))).map_err(|error| error.to_string())
}

#[test]
fn default_layout() {
    let config = PromptConfig::default();
    assert_eq!(config.text, "Transcribe the speech.");
    let layout = layout(&config.template, "ab").unwrap();
    assert_eq!(layout.parts, [Part::Bos(1), Part::Emotion, Part::Speech, Part::Tokens(vec![4, 5])]);
    assert!(layout.has_emotion() && layout.has_speech());
    assert_eq!(layout.num_tokens(), 3);
}

#[test]
fn layout_with_chat_tokens_and_text() {
    let layout = layout("<user>a{speech}b{prompt}{a b}<s>", "c").unwrap();
    let tokens = |ids: &[u32]| Part::Tokens(ids.to_vec());
    assert_eq!(layout.parts, [tokens(&[3, 4]), Part::Speech, tokens(&[5, 6, 7, 4, 9, 5, 8, 1])]);
    assert!(!layout.has_emotion());
}

#[test]
fn empty_prompt_is_no_part() {
    assert_eq!(layout("{speech}{prompt}", "").unwrap().parts, [Part::Speech]);
}

#[test]
fn unknown_placeholder() {
    let error = layout("{bos}{audio}", "").unwrap_err();
    assert_eq!(error, "prompt.template \"{bos}{audio}\": {audio} is unknown; use {bos}, {emotion}, {speech}, {prompt}");
}

#[test]
fn repeated_placeholder() {
    assert_eq!(
        layout("{speech}{speech}", "").unwrap_err(),
        "prompt.template \"{speech}{speech}\": {speech} is there twice"
    );
}

#[test]
fn bos_without_a_bos_token() {
    let dir = characters("a");
    fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    let error = Layout::new(&PromptConfig::default(), &load(&dir)).unwrap_err().to_string();
    assert!(error.ends_with("the tokenizer has no BOS token; leave {bos} out"), "{error}");
}
