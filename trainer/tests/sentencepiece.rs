//! SentencePiece models: equal to Python's sentencepiece on 10,000 lines (see tests/golden/tokenizer/make.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use echat::data::text::{TextError, Tokenizer};
use sha2::{Digest, Sha256};

const LINES: usize = 10_000;
const BLOCK: usize = 100;
const RANGES: [(u32, u32); 9] = [
    (0x4E00, 0x9FA5),
    (0x20000, 0x2A6D6),
    (0xAC00, 0xD7A3),
    (0x400, 0x4FF),
    (0x1F300, 0x1FAFF),
    (0x2000, 0x27BF),
    (0xE000, 0xE0FF),
    (0xA0, 0x17F),
    (0xE01, 0xE3A),
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizer")
}

/// splitmix64, as in make.py.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

fn line(random: &mut Random, atoms: &[String]) -> String {
    let mut text = String::new();
    for _ in 0..1 + random.below(24) {
        if random.below(16) >= 3 {
            text.push_str(&atoms[random.below(atoms.len()).min(random.below(atoms.len()))]);
        } else {
            let (low, high) = RANGES[random.below(RANGES.len())];
            text.push(char::from_u32(low + random.below((high - low) as usize) as u32).unwrap());
        }
    }
    text
}

fn lines() -> Vec<String> {
    let atoms = fs::read_to_string(golden().join("atoms.txt")).unwrap();
    let atoms: Vec<String> = atoms.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let mut random = Random(2);
    (0..LINES).map(|_| line(&mut random, &atoms)).collect()
}

fn load(model: &[u8]) -> Result<Tokenizer, TextError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.model"), model).unwrap();
    Tokenizer::load(dir.path())
}

fn golden_model(name: &str) -> Vec<u8> {
    fs::read(golden().join(format!("{name}.model"))).unwrap()
}

fn equals_python(name: &str) {
    let tokenizer = load(&golden_model(name)).unwrap();
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(golden().join("expected.json")).unwrap()).unwrap();
    let expected = &expected[name];
    let lines = lines();
    let full: Vec<Vec<u32>> = serde_json::from_value(expected["ids"].clone()).unwrap();
    assert_eq!(full.len(), 200);
    for (text, ids) in lines.iter().zip(&full) {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    let digests: Vec<String> = serde_json::from_value(expected["digests"].clone()).unwrap();
    assert_eq!(digests.len(), LINES / BLOCK);
    for (block, digest) in digests.iter().enumerate() {
        let mut sha = Sha256::new();
        for text in &lines[block * BLOCK..(block + 1) * BLOCK] {
            let ids = tokenizer.encode(text).unwrap();
            sha.update((ids.len() as u32).to_le_bytes());
            ids.iter().for_each(|id| sha.update(id.to_le_bytes()));
            sha.update(tokenizer.decode(&ids).unwrap());
        }
        let got: String = sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&got, digest, "lines {}..{}", block * BLOCK, (block + 1) * BLOCK);
    }
}

#[test]
fn as_baichuan2_ships_it() {
    equals_python("plain");
}

#[test]
fn with_dummy_prefix() {
    equals_python("dummy");
}

#[test]
fn with_rules_unknowns_ties_and_unused_pieces() {
    equals_python("rules");
}

#[test]
fn streamed_decoding_equals_decoding_and_never_splits_a_character() {
    for name in ["plain", "dummy", "rules"] {
        let tokenizer = load(&golden_model(name)).unwrap();
        for text in lines().iter().take(1000) {
            let ids = tokenizer.encode(text).unwrap();
            let whole = tokenizer.decode(&ids).unwrap();
            let mut stream = tokenizer.decode_stream();
            let mut joined = String::new();
            for &id in &ids {
                let fresh = stream.push(id).unwrap();
                assert!(!fresh.ends_with(char::REPLACEMENT_CHARACTER), "{name}: half a character of {text:?}");
                joined.push_str(&fresh);
            }
            joined.push_str(&stream.finish().unwrap());
            assert_eq!(joined, whole, "{name}: {text:?}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters() {
    let tokenizer = load(&golden_model("plain")).unwrap();
    let bytes: Vec<u32> = [0xE4, 0xBD, 0xA0, 0xE4, 0xBD, 0x41, 0xFF].map(|byte| byte_id(&tokenizer, byte)).to_vec();
    assert_eq!(tokenizer.decode(&bytes).unwrap(), "你\u{FFFD}\u{FFFD}A\u{FFFD}");
}

fn byte_id(tokenizer: &Tokenizer, byte: u8) -> u32 {
    let text = format!("<0x{byte:02X}>");
    (0..tokenizer.vocab_size() as u32).find(|&id| tokenizer.token(id).as_deref() == Some(&text)).unwrap()
}

#[test]
fn special_ids_come_from_the_model() {
    let tokenizer = load(&golden_model("plain")).unwrap();
    assert_eq!((tokenizer.unk(), tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(0), Some(1), Some(2), None));
    assert_eq!(tokenizer.vocab_size(), 3000);
    assert_eq!(tokenizer.stops(), [2]);
}

#[test]
fn special_ids_of_the_directory_come_first() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.model"), golden_model("plain")).unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("config.json", r#"{"bos_token_id": 7, "eos_token_id": 8, "pad_token_id": 9}"#);
    write("generation_config.json", r#"{"eos_token_id": [5, 6], "pad_token_id": 999999}"#);
    write("tokenizer_config.json", r#"{"bos_token": {"content": "<reserved_100>"}, "pad_token": "no such token"}"#);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(3), Some(5), Some(9)));
    assert_eq!(tokenizer.stops(), [5, 6, 8]);
}

#[test]
fn unknown_id() {
    let error = load(&golden_model("plain")).unwrap().decode(&[3000]).unwrap_err();
    assert_eq!(error.to_string(), "token id 3000 is outside the vocabulary of 3000");
}

#[test]
fn empty_text() {
    for name in ["plain", "dummy", "rules"] {
        let tokenizer = load(&golden_model(name)).unwrap();
        assert!(tokenizer.encode("").unwrap().is_empty());
        assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    }
}

fn problem(model: &[u8]) -> String {
    let error = load(model).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error.split_once("tokenizer.model: ").unwrap().1.to_string()
}

#[test]
fn truncated_model() {
    let model = golden_model("plain");
    assert_eq!(problem(&model[..model.len() - 3]), "not a SentencePiece model: it ends in the middle of a field");
}

#[test]
fn any_truncation_or_flipped_byte_is_an_error_or_a_model_but_never_a_panic() {
    let model = golden_model("rules");
    let text = "今天 Hello ！！ éè…";
    for at in (0..model.len()).step_by(model.len() / 400) {
        let _ = load(&model[..at]).map(|tokenizer| tokenizer.encode(text).unwrap());
        let mut flipped = model.clone();
        flipped[at] ^= 0x55;
        let _ = load(&flipped).map(|tokenizer| tokenizer.encode(text).unwrap());
    }
}

#[test]
fn empty_model() {
    assert_eq!(problem(b""), "not a SentencePiece model: it has no pieces");
}

#[test]
fn not_a_model() {
    assert!(problem(b"#version: 0.2\n").starts_with("not a SentencePiece model: "));
}

/// A protobuf message field.
fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, payload.len() as u8], payload].concat()
}

fn piece(text: &str, kind: u8) -> Vec<u8> {
    field(1, &[field(1, text.as_bytes()), vec![3 << 3, kind]].concat())
}

#[test]
fn unigram_model() {
    let model = [piece("<unk>", 2), piece("a", 1), field(2, &[3 << 3, 1])].concat();
    assert_eq!(problem(&model), "a SentencePiece unigram model; only BPE is supported");
}

#[test]
fn model_without_unknown_piece() {
    let model = [piece("a", 1), field(2, &[3 << 3, 2])].concat();
    assert_eq!(problem(&model), "has no piece of type UNKNOWN");
}

#[test]
fn duplicate_piece() {
    let model = [piece("<unk>", 2), piece("a", 1), piece("a", 1), field(2, &[3 << 3, 2])].concat();
    assert_eq!(problem(&model), "piece 2 (\"a\") is in the vocabulary twice");
}

#[test]
fn byte_fallback_without_all_bytes() {
    let model = [piece("<unk>", 2), piece("<0x00>", 6), field(2, &[3 << 3, 2, 0x98, 0x02, 1])].concat();
    assert_eq!(problem(&model), "falls back to bytes but has not all 256 of them");
}
