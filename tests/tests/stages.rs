//! A user's way through both stages, and the other ways to the same numbers: shards, an exported encoder, text alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use echat_tests::{EMOTIONS, Fixture, assert_close};
use serde_json::Value;

/// The figures of `echat eval` on `run`.
fn figures(fixture: &Fixture, ranks: usize, run: &str) -> Value {
    let (checkpoint, json) = (fixture.arg(run), fixture.arg("eval.json"));
    let args = ["eval", "--checkpoint", &checkpoint, "--json", &json, "--max-new-tokens", "8"];
    fixture.echat(ranks, &args).expect_success();
    let all: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    all["figures"].clone()
}

/// Counts are the same at any number of ranks, sums of losses but for the order of additions.
fn assert_same_figures(one: &Value, two: &Value) {
    for key in ["utterances", "cer", "bleu_1", "bleu_4", "emotion_accuracy"] {
        assert_eq!(one[key], two[key], "{key}");
    }
    for key in ["utterances", "edits", "bleu", "confusion", "tokens"] {
        assert_eq!(one["counts"][key], two["counts"][key], "{key}");
    }
    for key in ["decoder_loss", "emotion_loss"] {
        let point = |figures: &Value| vec![(0, figures[key].as_f64().unwrap_or(0.0))];
        assert_close(key, &point(one), &point(two), 1e-6);
    }
}

#[test]
fn from_stage_1_through_stage_2_to_a_conversation() {
    let fixture = Fixture::new();
    let first = fixture.trained(2, "stage1.toml", "stage1", &[]);
    assert_eq!(first.of("train/loss").len(), 20);
    let trained = figures(&fixture, 1, "stage1");
    assert_same_figures(&trained, &figures(&fixture, 2, "stage1"));
    assert!(trained["cer"].as_f64().unwrap() > 0.0 && trained["utterances"] == 8, "{trained}");
    let loss = |loss: f64| vec![(20, loss)];
    let evaluated = trained["decoder_loss"].as_f64().unwrap();
    assert_close("eval after stage 1", &loss(first.last("valid/loss")), &loss(evaluated), 1e-6);

    let second = fixture.trained(2, "stage2.toml", "stage2", &[]);
    assert!(second.last("train/loss_emotion").is_finite());
    let answered = figures(&fixture, 1, "stage2");
    assert_same_figures(&answered, &figures(&fixture, 2, "stage2"));
    for key in ["bleu_1", "bleu_4", "emotion_accuracy", "decoder_loss", "emotion_loss"] {
        assert!(answered[key].as_f64().is_some_and(f64::is_finite), "{key}: {answered}");
    }
    assert!(answered["cer"].is_null(), "responses have no CER: {answered}");

    converse(&fixture);
    the_exported_model_is_the_trained_one(&fixture, second.last("valid/loss"));
}

/// Probabilities of five emotions that add up to one, and an answer.
fn converse(fixture: &Fixture) {
    let (checkpoint, wav) = (fixture.arg("stage2"), fixture.arg("audio/valid-0.wav"));
    let chat = ["chat", "--checkpoint", &checkpoint, "--set", "generation.max_new_tokens=8", &wav];
    let said = fixture.echat(1, &chat).expect_success().stdout;
    let (emotions, answer) = said.trim_start_matches('[').split_once("]\n").unwrap();
    let shares: Vec<(&str, u32)> = emotions
        .split(", ")
        .map(|share| share.split_once(' ').unwrap())
        .map(|(name, percent)| (name, percent.trim_end_matches(" %").parse().unwrap()))
        .collect();
    assert_eq!(shares.iter().map(|(name, _)| *name).collect::<Vec<_>>(), EMOTIONS);
    let sum: u32 = shares.iter().map(|(_, percent)| percent).sum();
    assert!((98..=102).contains(&sum), "{said}");
    assert!(answer.ends_with('\n'), "{said}");
}

/// A step too small to change anything, from the exported files alone, finds the loss of the run they came from.
fn the_exported_model_is_the_trained_one(fixture: &Fixture, loss: f64) {
    let (checkpoint, out) = (fixture.arg("stage2"), fixture.arg("exported"));
    fixture.echat(1, &["export", "--checkpoint", &checkpoint, &out]).expect_success();
    let encoder = fixture.fill("encoder.path=\"{root}/exported/encoder\"");
    let rest = fixture.fill("model.init=[\"{root}/exported/echat.safetensors\"]");
    let sets = [encoder.as_str(), rest.as_str(), "encoder.random_init=false", "optimizer.lr=1e-30", "train.steps=1"];
    let again = fixture.trained(1, "stage2.toml", "from-export", &sets);
    assert_close("loss of the export", &[(1, loss)], &again.of("valid/loss"), 1e-6);
}

#[test]
fn shards_give_bitwise_the_losses_of_their_manifest() {
    let fixture = Fixture::new();
    for split in ["train", "valid"] {
        let (manifest, out) = (fixture.arg(&format!("{split}.jsonl")), fixture.arg(&format!("shards-{split}")));
        fixture.echat(1, &["prepare", &manifest, &out]).expect_success();
    }
    let train = fixture.fill("data.train=[\"{root}/shards-train\"]");
    let valid = fixture.fill("data.valid=[\"{root}/shards-valid\"]");
    let from_manifest = fixture.trained(1, "stage1.toml", "manifest", &[]);
    let from_shards = fixture.trained(1, "stage1.toml", "shards", &[&train, &valid]);
    assert_eq!(from_manifest.repeatable(), from_shards.repeatable());
    assert_eq!(fixture.weights("manifest", 20), fixture.weights("shards", 20));
}

#[test]
fn a_decoder_learns_from_text_alone() {
    let fixture = Fixture::new();
    let metrics = fixture.trained(1, "text.toml", "text", &[]);
    let losses = metrics.of("train/loss");
    assert!(metrics.last("valid/loss") < 0.8 * losses[0].1, "{losses:?}");
    let at_two = fixture.trained(2, "text.toml", "text-2", &[]);
    assert_close("text at 2 ranks", &losses, &at_two.of("train/loss"), 1e-5);
    let trained = figures(&fixture, 1, "text");
    assert_same_figures(&trained, &figures(&fixture, 2, "text"));
    let (checkpoint, out) = (fixture.arg("text"), fixture.arg("exported"));
    fixture.echat(1, &["export", "--decoder", "--checkpoint", &checkpoint, &out]).expect_success();
    let decoder = fixture.fill("decoder.path=\"{root}/exported/decoder\"");
    let sets = [decoder.as_str(), "decoder.random_init=false", "optimizer.lr=1e-30", "train.steps=1"];
    let again = fixture.trained(1, "text.toml", "from-export", &sets);
    assert_close("loss of the exported decoder", &[(1, metrics.last("valid/loss"))], &again.of("valid/loss"), 1e-6);
}

#[test]
fn the_best_checkpoint_is_kept_beside_the_newest() {
    let fixture = Fixture::new();
    // Every step validates and saves; the rate is such that the loss falls and then rises.
    let sets = ["checkpoint.every_steps=1", "validation.every=1", "checkpoint.keep_last=1", "optimizer.lr=0.1"];
    let metrics = fixture.trained(1, "stage1.toml", "run", &sets);
    let validated = metrics.of("valid/loss");
    assert_eq!(validated.len(), 20);
    let best = validated.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    let mut kept: Vec<String> = fs::read_dir(fixture.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    let mut expected = vec![format!("step-{best:08}"), "step-00000020".to_owned()];
    expected.dedup();
    assert_eq!(kept, expected);
}
