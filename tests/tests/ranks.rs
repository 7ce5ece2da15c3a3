//! The number of ranks, and into how many pieces a rank cuts its part, change nothing but the order of additions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use echat_tests::{Fixture, Metrics, assert_close};

/// The same utterances in every step.
fn assert_same_batches(one: &Metrics, other: &Metrics) {
    for tag in ["batch/utterances", "batch/audio_seconds", "batch/target_tokens"] {
        assert_eq!(one.of(tag), other.of(tag), "{tag}");
    }
}

#[test]
fn one_two_and_three_ranks_have_the_same_losses_over_50_steps() {
    let fixture = Fixture::new();
    let sets = ["train.steps=50", "checkpoint.every_steps=0"];
    let one = fixture.trained(1, "stage1.toml", "ranks-1", &sets);
    assert_eq!(one.of("train/loss").len(), 50);
    let sizes = one.of("batch/utterances");
    assert!(sizes.iter().any(|(_, n)| *n != sizes[0].1), "steps should differ: {sizes:?}");
    for ranks in [2, 3] {
        let several = fixture.trained(ranks, "stage1.toml", &format!("ranks-{ranks}"), &sets);
        assert_same_batches(&one, &several);
        let what = |name: &str| format!("{name} at {ranks} ranks");
        assert_close(&what("training loss"), &one.of("train/loss"), &several.of("train/loss"), 1e-5);
        assert_close(&what("validation loss"), &one.of("valid/loss"), &several.of("valid/loss"), 1e-5);
    }
}

#[test]
fn more_ranks_than_utterances_in_a_step() {
    let fixture = Fixture::new();
    // A step of one or two recordings: a third rank has nothing to do.
    let sets = ["data.global_batch_seconds=1.2", "train.steps=10"];
    let one = fixture.trained(1, "stage1.toml", "ranks-1", &sets);
    assert!(one.of("batch/utterances").iter().any(|(_, n)| *n < 3.0));
    let three = fixture.trained(3, "stage1.toml", "ranks-3", &sets);
    assert_same_batches(&one, &three);
    assert_close("training loss", &one.of("train/loss"), &three.of("train/loss"), 1e-5);
}

#[test]
fn accumulation_changes_no_loss() {
    let fixture = Fixture::new();
    let with = |run: &str, seconds: &str| fixture.trained(1, "stage1.toml", run, &[seconds]);
    let whole = with("whole", "data.micro_batch_seconds=100");
    let quarters = with("quarters", "data.micro_batch_seconds=1");
    assert_same_batches(&whole, &quarters);
    assert_close("training loss", &whole.of("train/loss"), &quarters.of("train/loss"), 1e-6);
}

#[test]
fn recomputation_and_threads_change_no_bit() {
    let fixture = Fixture::new();
    let plain = fixture.trained(1, "stage1.toml", "plain", &[]);
    let sets = ["encoder.recompute=true", "connector.recompute=true", "decoder.recompute=true", "output.threads=2"];
    let recomputed = fixture.trained(1, "stage1.toml", "recomputed", &sets);
    assert_eq!(plain.repeatable(), recomputed.repeatable());
    assert_eq!(fixture.weights("plain", 20), fixture.weights("recomputed", 20));
}
