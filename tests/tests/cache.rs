//! Stage 2 with the features of its frozen encoder computed once is stage 2; a cache of anything else is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use echat_tests::{Fixture, Metrics, Running, assert_close, signal, some_number};

/// Six steps of stage 2 from a random encoder.
const SHORT: [&str; 3] = ["model.init=[]", "train.steps=6", "validation.every=3"];
const CACHE: &str = "data.cache=\"{root}/cache\"";

fn trained(fixture: &Fixture, ranks: usize, run: &str, sets: &[&str]) -> Metrics {
    fixture.trained(ranks, "stage2.toml", run, &[&SHORT[..], sets].concat())
}

/// `echat cache` on the same configuration.
fn cache_args(fixture: &Fixture, sets: &[&str]) -> Vec<String> {
    let mut args = vec!["cache".into(), fixture.arg("stage2.toml")];
    for set in SHORT.iter().chain(sets) {
        args.extend(["--set".into(), fixture.fill(set)]);
    }
    args
}

fn refused(fixture: &Fixture, sets: &[&str], parts: &[&str]) {
    Running::start(1, &cache_args(fixture, sets)).wait().expect_error(parts);
    fixture.train(1, "stage2.toml", "refused", &[&SHORT[..], sets].concat(), &[]).expect_error(parts);
    let _ = fs::remove_dir_all(fixture.path("refused"));
}

#[test]
fn f32_features_give_bitwise_the_same_training() {
    let fixture = Fixture::new();
    let without = trained(&fixture, 1, "without", &[]);
    let with = trained(&fixture, 1, "with", &[CACHE]);
    assert_eq!(without.repeatable(), with.repeatable());
    assert_eq!(fixture.weights("without", 6), fixture.weights("with", 6));
    assert!(with.last("valid/loss").is_finite());
    // The next run takes what is there.
    let made = fixture.contents("cache");
    let again = trained(&fixture, 1, "again", &[CACHE]);
    assert_eq!(without.repeatable(), again.repeatable());
    assert!(fixture.contents("cache") == made);
}

#[test]
fn bf16_features_differ_by_their_rounding() {
    let fixture = Fixture::new();
    let without = trained(&fixture, 1, "without", &[]);
    let with = trained(&fixture, 1, "with", &[CACHE, "data.cache_precision=\"bf16\""]);
    let (exact, rounded) = (without.of("train/loss"), with.of("train/loss"));
    assert_close("bf16 features", &exact, &rounded, 4e-3);
    assert_ne!(exact, rounded);
}

/// The files of the cache, by name.
fn files(fixture: &Fixture, cache: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let root = fixture.path(cache);
    fixture.contents(cache).into_iter().map(|(path, bytes)| (path.strip_prefix(&root).unwrap().into(), bytes)).collect()
}

#[test]
fn ranks_build_it_together_and_train_on_it_alike() {
    let fixture = Fixture::new();
    let one = trained(&fixture, 1, "one", &[CACHE]);
    for ranks in [2, 3] {
        let cache = format!("data.cache=\"{{root}}/cache{ranks}\"");
        let outcome = Running::start(ranks, &cache_args(&fixture, &[&cache])).wait().expect_success();
        outcome.expect_said(&[&format!("cache{ranks}: 32 utterances, ")]);
        assert!(files(&fixture, &format!("cache{ranks}")) == files(&fixture, "cache"));
        let several = trained(&fixture, ranks, &format!("ranks{ranks}"), &[&cache]);
        assert_close("losses", &one.of("train/loss"), &several.of("train/loss"), 1e-5);
    }
}

#[test]
fn a_killed_build_goes_on_and_ends_with_the_same_bytes() {
    let fixture = Fixture::new();
    Running::start(1, &cache_args(&fixture, &[CACHE])).wait().expect_success();
    let whole = files(&fixture, "cache");
    for round in 0..3 {
        let cache = format!("data.cache=\"{{root}}/killed{round}\"");
        let mut running = Running::start(1, &cache_args(&fixture, &[&cache]));
        let moment = Duration::from_millis(some_number(700));
        println!("killed after {moment:?}");
        std::thread::sleep(moment);
        running.rank(0).into_iter().for_each(|pid| signal("KILL", pid));
        running.wait();
        Running::start(1, &cache_args(&fixture, &[&cache])).wait().expect_success();
        assert!(files(&fixture, &format!("killed{round}")) == whole);
    }
    // A file that is missing is made again, alone.
    fs::remove_file(fixture.path("cache/features-00000.safetensors")).unwrap();
    Running::start(1, &cache_args(&fixture, &[CACHE])).wait().expect_success();
    assert!(files(&fixture, "cache") == whole);
}

#[test]
fn a_cache_of_another_encoder_corpus_or_setting_is_refused() {
    let fixture = Fixture::new();
    Running::start(1, &cache_args(&fixture, &[CACHE])).wait().expect_success();
    let stale = |sets: &[&str], what: &str| {
        let line = format!("cache: this cache is stale: {what} changed since it was made");
        refused(&fixture, &[&[CACHE], sets].concat(), &[&line, "delete it, or give another data.cache"]);
    };
    stale(&["model.seed=7"], "the encoder's weights");
    stale(&["encoder.mask_time_length=3"], "the encoder's settings");
    stale(&["data.cache_precision=\"bf16\""], "data.cache_precision");
    stale(&["data.max_seconds=0.5"], "the corpus");
    // The same manifest, but one recording is another.
    let wav = fixture.path("audio/train-3.wav");
    let other = fs::read(fixture.path("audio/train-4.wav")).unwrap();
    fs::write(wav, other).unwrap();
    stale(&[], "the corpus");
}

#[test]
fn what_cannot_be_cached_is_said() {
    let fixture = Fixture::new();
    refused(&fixture, &[CACHE, "train.groups=[\"encoder\", \"connector\"]"], &["data.cache needs a frozen encoder"]);
    refused(
        &fixture,
        &[CACHE, "data.speed_perturb=[0.9, 1.1]"],
        &["data.cache and data.speed_perturb do not go together"],
    );
    fixture.write("cache/note.txt", "mine");
    refused(&fixture, &[CACHE], &["cache: not empty, and no cache of features"]);
    let none = Running::start(1, &cache_args(&fixture, &[])).wait();
    none.expect_error(&["data.cache is empty: it says where to put the features"]);
}

#[test]
fn a_damaged_file_is_named() {
    let fixture = Fixture::new();
    Running::start(1, &cache_args(&fixture, &[CACHE])).wait().expect_success();
    let path = fixture.path("cache/features-00000.safetensors");
    let whole = fs::read(&path).unwrap();
    let damaged = |bytes: &[u8], parts: &[&str]| {
        fs::write(&path, bytes).unwrap();
        fixture.train(1, "stage2.toml", "damaged", &[&SHORT[..], &[CACHE]].concat(), &[]).expect_error(parts);
        let _ = fs::remove_dir_all(fixture.path("damaged"));
    };
    let name = "features-00000.safetensors: damaged: ";
    damaged(&whole[..whole.len() / 2], &[name, "delete this file and run `echat cache` again"]);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 16;
    damaged(&flipped, &[name, "does not match its checksum"]);
    let other = fs::read(fixture.path("cache/features.json")).unwrap();
    damaged(&other, &[name]);
}

#[test]
fn a_recording_that_cannot_be_read_is_left_out_as_without_a_cache() {
    let fixture = Fixture::new();
    fs::write(fixture.path("audio/train-5.wav"), "RIFF no sound").unwrap();
    let lines = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    // With a duration the manifest is believed until the recording is read.
    fixture.write(
        "train.jsonl",
        &lines.replace(
            "\"audio_filepath\":\"audio/train-5.wav\"",
            "\"duration\":0.5,\"audio_filepath\":\"audio/train-5.wav\"",
        ),
    );
    let bad = ["data.max_bad_share=0.1"];
    let without = trained(&fixture, 1, "without", &bad);
    Running::start(1, &cache_args(&fixture, &[&bad[..], &[CACHE]].concat()))
        .wait()
        .expect_success()
        .expect_said(&["31 utterances", "1 not"]);
    let with = trained(&fixture, 1, "with", &[&bad[..], &[CACHE]].concat());
    assert_eq!(without.repeatable(), with.repeatable());
}
