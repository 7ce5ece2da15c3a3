//! Manifests and shards open as one corpus; what cannot be used is counted and listed, and too much of it is an error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use echat::data::shard::{Shard, ShardWriter};
use echat::data::{Corpus, CorpusError, CorpusOptions, Emotion, Target, Utterance};
use tempfile::TempDir;

fn options() -> CorpusOptions {
    CorpusOptions { target: Target::Text, min_seconds: 0.1, max_seconds: 2.0, max_bad_share: 0.0, verify: false }
}

/// `samples` of 16 kHz audio, all of value `x`.
fn wav(path: &Path, samples: usize, x: i16) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    (0..samples).for_each(|_| writer.write_sample(x).unwrap());
    writer.finalize().unwrap();
}

fn manifest(dir: &TempDir, lines: &[&str]) -> PathBuf {
    let path = dir.path().join("m.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn utterance(id: &'static str, samples: usize) -> Utterance<'static> {
    Utterance {
        id,
        text: "t",
        response: None,
        emotion: None,
        speaker: None,
        context: None,
        audio: vec![3; samples].into(),
    }
}

fn shards(dir: &Path, utterances: &[Utterance]) {
    let mut writer = ShardWriter::create(dir, 10_000).unwrap();
    utterances.iter().for_each(|u| writer.push(u).unwrap());
    writer.finish().unwrap();
}

#[test]
fn sources_of_every_kind_are_one_corpus() {
    let dir = TempDir::new().unwrap();
    wav(&dir.path().join("a.wav"), 8_000, 1);
    wav(&dir.path().join("b.wav"), 16_000, 2);
    let m = manifest(
        &dir,
        &[
            r#"{"audio_filepath": "a.wav", "text": "一"}"#,
            r#"{"audio_filepath": "b.wav", "text": "二", "emotion": "angry", "offset": 0.25, "duration": 0.5}"#,
            r#"{"text": "回答", "context": "问题吗"}"#,
        ],
    );
    let out = dir.path().join("shards");
    shards(&out, &[utterance("s0", 4_000), utterance("s1", 4_800), utterance("s2", 5_600)]);
    let single = out.join("shard-00001.safetensors");
    let corpus = Corpus::open(&[m, out, single], &options()).unwrap();
    let costs: Vec<_> = corpus.costs().iter().map(|cost| (cost.seconds, cost.tokens)).collect();
    assert_eq!(costs, [(0.5, 1), (0.5, 1), (1.0, 5), (0.25, 1), (0.3, 1), (0.35, 1), (0.3, 1)]);
    let ids: Vec<_> = (0..corpus.len()).map(|i| corpus.get(i).unwrap().id.to_string()).collect();
    assert_eq!(ids, ["a-1", "b-2", "m-3", "s0", "s1", "s2", "s1"]);
    let lens: Vec<_> = (0..corpus.len()).map(|i| corpus.get(i).unwrap().audio.len()).collect();
    assert_eq!(lens, [8_000, 8_000, 0, 4_000, 4_800, 5_600, 4_800]);
    assert_eq!(corpus.get(1).unwrap().audio[0], 2);
    let emotion = |i: usize| corpus.get(i).unwrap().emotion;
    assert_eq!((emotion(1), emotion(3)), (Some(Emotion::Angry), None));
    assert!(corpus.get(2).unwrap().is_text_only());
    assert!(corpus.describe(1).ends_with("m.jsonl:2"));
    assert!(corpus.describe(4).ends_with("shard-00001.safetensors: utterance 0"));
    let report = corpus.report();
    assert_eq!((report.utterances, report.text_only, report.bad.len()), (7, 1, 0));
    assert!((report.seconds - 2.2).abs() < 1e-6);
}

#[test]
fn too_short_and_too_long_are_left_out_and_counted() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("shards");
    shards(
        &out,
        &[utterance("short", 1_599), utterance("a", 1_600), utterance("b", 32_000), utterance("long", 32_001)],
    );
    let corpus = Corpus::open(&[out], &options()).unwrap();
    let report = corpus.report();
    assert_eq!((report.utterances, report.too_short, report.too_long), (2, 1, 1));
    assert_eq!(corpus.get(0).unwrap().id, "a");
    assert_eq!(report.summary(), "2 utterances, 0.00 h, 1 left out as too short, 1 left out as too long");
}

#[test]
fn unusable_utterances_are_listed_up_to_the_share() {
    let dir = TempDir::new().unwrap();
    wav(&dir.path().join("a.wav"), 8_000, 1);
    wav(&dir.path().join("none.wav"), 0, 1);
    fs::write(dir.path().join("empty.wav"), "").unwrap();
    fs::write(dir.path().join("text.wav"), "this is no sound at all, ".repeat(99)).unwrap();
    let m = manifest(
        &dir,
        &[
            r#"{"audio_filepath": "a.wav", "text": "x"}"#,
            r#"{"audio_filepath": "missing.wav", "text": "x"}"#,
            r#"{"audio_filepath": "missing.wav", "text": "x", "duration": 1.0}"#,
            r#"{"audio_filepath": "empty.wav", "text": "x"}"#,
            r#"{"audio_filepath": "text.wav", "text": "x"}"#,
            r#"{"audio_filepath": "none.wav", "text": "x"}"#,
            r#"{"audio_filepath": "a.wav", "text": ""}"#,
            r#"{"audio_filepath": "a.wav", "text": "x", "offset": 1.0}"#,
        ],
    );
    let corpus = Corpus::open(std::slice::from_ref(&m), &CorpusOptions { max_bad_share: 0.9, ..options() }).unwrap();
    assert_eq!(corpus.len(), 1);
    let lines: Vec<_> = corpus.report().bad.iter().map(|b| b.source.rsplit(':').next().unwrap().to_string()).collect();
    assert_eq!(lines, ["2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(corpus.report().bad[5].reason, "it has no text");
    let error = Corpus::open(&[m], &CorpusOptions { max_bad_share: 0.8, ..options() }).err().unwrap();
    let message = error.to_string();
    assert!(matches!(error, CorpusError::TooManyBad { bad: 7, total: 8, .. }), "{message}");
    assert!(message.contains("m.jsonl:2") && message.contains("missing.wav") && !message.contains('\n'), "{message}");
}

#[test]
fn an_utterance_without_response_is_bad_where_responses_are_learned() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("shards");
    let answered = Utterance { response: Some("r"), ..utterance("b", 2_000) };
    shards(&out, &[utterance("a", 2_000), answered]);
    let options = CorpusOptions { target: Target::Response, max_bad_share: 0.5, ..options() };
    let corpus = Corpus::open(&[out], &options).unwrap();
    assert_eq!(corpus.get(0).unwrap().id, "b");
    assert_eq!(
        (corpus.report().bad[0].id.as_str(), corpus.report().bad[0].reason.as_str()),
        ("a", "it has no response")
    );
}

#[test]
fn nothing_left_is_an_error() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("shards");
    shards(&out, &[utterance("a", 100)]);
    let error = Corpus::open(&[out], &options()).err().unwrap();
    assert!(matches!(error, CorpusError::Empty { total: 1, .. }), "{error}");
}

#[test]
fn what_is_no_corpus_is_named() {
    let dir = TempDir::new().unwrap();
    let (note, missing) = (dir.path().join("note.txt"), dir.path().join("none.jsonl"));
    fs::write(&note, "hello").unwrap();
    assert!(matches!(Corpus::open(&[note], &options()), Err(CorpusError::UnknownSource { .. })));
    assert!(matches!(Corpus::open(&[missing], &options()), Err(CorpusError::Manifest(_))));
    assert!(matches!(Corpus::open(&[dir.path().into()], &options()), Err(CorpusError::Shard(_))));
}

#[test]
fn a_flipped_sample_is_found_on_reading_or_by_verify() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("shards");
    shards(&out, &[utterance("a", 2_000)]);
    let path = out.join("shard-00000.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[len - 1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let corpus = Corpus::open(std::slice::from_ref(&out), &options()).unwrap();
    assert!(matches!(corpus.get(0), Err(CorpusError::Shard(_))));
    let verify = CorpusOptions { verify: true, ..options() };
    assert!(matches!(Corpus::open(&[out], &verify), Err(CorpusError::Shard(_))));
    assert!(Shard::open(&path).unwrap().verify().is_err());
}
