//! Mixtures, speeds, placement and budgets through the binary: they depend on neither ranks nor interruptions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use echat_tests::{Fixture, assert_close};

/// Twenty steps of a mixture of the training and the held-out recordings at three speeds.
const MIXED: [&str; 5] = [
    "data.train=[\"{root}/train.jsonl\", \"{root}/valid.jsonl\"]",
    "data.weights=[1, 1]",
    "data.speed_perturb=[0.9, 1.0, 1.1]",
    "data.micro_batch_tokens=8",
    "checkpoint.every_steps=10",
];

#[test]
fn a_mixture_at_several_speeds_has_the_same_losses_at_any_number_of_ranks() {
    let fixture = Fixture::new();
    let one = fixture.trained(1, "stage1.toml", "ranks-1", &MIXED);
    let plain = fixture.trained(1, "stage1.toml", "plain", &MIXED[..2]);
    assert_ne!(one.of("batch/audio_seconds"), plain.of("batch/audio_seconds"));
    for ranks in [2, 3] {
        let several = fixture.trained(ranks, "stage1.toml", &format!("ranks-{ranks}"), &MIXED);
        for tag in ["batch/utterances", "batch/audio_seconds", "batch/target_tokens"] {
            assert_eq!(one.of(tag), several.of(tag), "{tag}");
        }
        assert_close("training loss", &one.of("train/loss"), &several.of("train/loss"), 1e-5);
        assert_close("validation loss", &one.of("valid/loss"), &several.of("valid/loss"), 1e-5);
    }
}

#[test]
fn a_mixture_at_several_speeds_resumes_bitwise() {
    let fixture = Fixture::new();
    let whole = fixture.trained(2, "stage1.toml", "whole", &MIXED);
    fixture.trained(2, "stage1.toml", "run", &MIXED);
    // As if the run had died before its last checkpoint.
    fs::remove_dir_all(fixture.checkpoint("run", 20)).unwrap();
    fixture.train(2, "stage1.toml", "run", &MIXED, &["--resume", "auto"]).expect_success();
    assert_eq!(whole.repeatable(), fixture.metrics("run").repeatable());
    assert!(fixture.weights("whole", 20) == fixture.weights("run", 20), "other weights or optimizer state");
}

#[test]
fn shards_on_one_node_are_trained_on_as_if_shared_and_a_missing_one_is_named() {
    let fixture = Fixture::new();
    for split in ["train", "valid"] {
        let (manifest, out) = (fixture.arg(&format!("{split}.jsonl")), fixture.arg(&format!("shards-{split}")));
        fixture.echat(1, &["prepare", &manifest, &out]).expect_success();
    }
    let train = "data.train=[\"{root}/shards-train\"]";
    let valid = "data.valid=[\"{root}/shards-valid\"]";
    let shared = fixture.trained(2, "stage1.toml", "shared", &[train, valid]);
    let local = "data.placement=\"node_local\"";
    let placed = fixture.trained(2, "stage1.toml", "local", &[train, valid, local]);
    assert_eq!(shared.repeatable(), placed.repeatable());
    fs::remove_file(fixture.path("shards-train/shard-00000.safetensors")).unwrap();
    let outcome = fixture.train(2, "stage1.toml", "missing", &[train, valid, local], &[]);
    outcome.expect_error(&["shards-train/shard-00000.safetensors: on none of the 1 nodes (", "copy it to one of them"]);
    let outcome = fixture.train(2, "stage1.toml", "files", &[local], &[]);
    outcome.expect_error(&["train.jsonl: data.placement = \"node_local\" takes directories"]);
}

#[test]
fn settings_of_the_data_are_checked() {
    let fixture = Fixture::new();
    let refused = |set: &str, parts: &[&str]| fixture.train(1, "stage1.toml", "run", &[set], &[]).expect_error(parts);
    refused("data.weights=[1, 2]", &["data.weights: expected as many as data.train has entries, found 2"]);
    refused("data.weights=[0]", &["data.weights: expected positive numbers, found 0"]);
    refused("data.speed_perturb=[4.0]", &["data.speed_perturb: expected numbers from 0.5 to 2, found 4"]);
}
