//! A run that was killed goes on as if nothing had been.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use echat_tests::{Fixture, Running, assert_close, signal, some_number};

const STEPS: u64 = 40;
/// Nothing takes nearly as long.
const LIMIT: Duration = Duration::from_secs(120);
const SETS: [&str; 3] = ["train.steps=40", "checkpoint.every_steps=5", "validation.every=10"];

/// Waits until the fresh run `run` has recorded `step`.
fn reach(fixture: &Fixture, running: &mut Running, run: &str, step: u64) {
    let path = fixture.path(run).join("metrics.jsonl");
    let begun = Instant::now();
    let recorded = || std::fs::read_to_string(&path).unwrap_or_default().matches("train/loss\"").count() as u64;
    while recorded() < step {
        assert!(!running.has_ended() && begun.elapsed() < LIMIT, "step {step} was not reached");
        sleep(Duration::from_millis(1));
    }
}

/// Starts `run` on two ranks and kills one of them at a random moment.
fn killed(fixture: &Fixture, run: &str) {
    let (step, delay) = (6 + some_number(24), Duration::from_millis(some_number(15)));
    let rank = some_number(2) as usize;
    println!("killing rank {rank} {delay:?} after step {step}");
    let mut running = fixture.start_train(2, "stage1.toml", run, &SETS, &[]);
    reach(fixture, &mut running, run, 1);
    let pid = running.rank(rank).expect("the rank runs");
    reach(fixture, &mut running, run, step);
    sleep(delay);
    signal("KILL", pid);
    let outcome = running.wait_for(Duration::from_secs(60));
    assert!(outcome.code != Some(0), "{outcome:?}");
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains(&format!("process rank {rank}")) && said.contains("signal 9"), "{said}");
    assert!(!fixture.checkpoint(run, STEPS).exists(), "it was killed too late to say anything");
}

#[test]
fn a_killed_rank_ends_the_run_and_the_resumed_run_is_bitwise_the_uninterrupted_one() {
    let fixture = Fixture::new();
    let whole = fixture.trained(2, "stage1.toml", "whole", &SETS);
    killed(&fixture, "killed");
    for ranks in [1, 3] {
        fixture.copy_run("killed", &format!("killed-{ranks}"));
    }
    fixture.train(2, "stage1.toml", "killed", &SETS, &["--resume", "auto"]).expect_success();
    let resumed = fixture.metrics("killed");
    assert_eq!(resumed.of("train/loss").len() as u64, STEPS);
    assert_eq!(whole.repeatable(), resumed.repeatable());
    assert!(fixture.weights("whole", STEPS) == fixture.weights("killed", STEPS), "other weights or optimizer state");

    for ranks in [1, 3] {
        let run = format!("killed-{ranks}");
        fixture.train(ranks, "stage1.toml", &run, &SETS, &["--resume", "auto"]).expect_success();
        let resumed = fixture.metrics(&run);
        for tag in ["batch/utterances", "batch/audio_seconds"] {
            assert_eq!(whole.of(tag), resumed.of(tag), "{tag}");
        }
        assert_close(&format!("resumed at {ranks} ranks"), &whole.of("train/loss"), &resumed.of("train/loss"), 1e-5);
    }
}

#[test]
fn resuming_on_other_data_is_said() {
    let fixture = Fixture::new();
    fixture.trained(1, "stage1.toml", "run", &["train.steps=2"]);
    let resumed = |sets: &[&str]| {
        let outcome = fixture.train(1, "stage1.toml", "run", sets, &["--resume", "auto"]).expect_success();
        outcome.stdout.contains("another corpus, mixture, placement or data.global_batch_seconds than before step")
    };
    assert!(!resumed(&["train.steps=4"]));
    assert!(resumed(&["train.steps=6", "data.global_batch_seconds=2.0"]));
}

#[test]
fn records_between_log_lines_are_as_in_an_uninterrupted_run() {
    let fixture = Fixture::new();
    let sets = ["train.log_every=4", "checkpoint.every_steps=5"];
    let whole = fixture.trained(1, "stage1.toml", "whole", &sets);
    fixture.trained(1, "stage1.toml", "run", &sets);
    // As if the run had died before its last two checkpoints.
    for step in [20, 15] {
        std::fs::remove_dir_all(fixture.checkpoint("run", step)).unwrap();
    }
    fixture.train(1, "stage1.toml", "run", &sets, &["--resume", "auto"]).expect_success();
    assert_eq!(whole.repeatable(), fixture.metrics("run").repeatable());
    assert!(fixture.weights("whole", 20) == fixture.weights("run", 20), "other weights or optimizer state");
}

#[test]
fn killed_again_and_again_while_saving_it_always_goes_on() {
    let fixture = Fixture::new();
    let sets = ["train.steps=40", "checkpoint.every_steps=1", "checkpoint.keep_last=2"];
    fixture.trained(1, "stage1.toml", "whole", &sets);
    let mut last = 0;
    for round in 0..6 {
        let (more, delay) = (some_number(6), Duration::from_millis(some_number(40)));
        println!("round {round}: killing {delay:?} after {more} more steps than {last}");
        let mut running = fixture.start_train(1, "stage1.toml", "run", &sets, &["--resume", "auto"]);
        let begun = Instant::now();
        while saved(&fixture) < last + 1 + more && !running.has_ended() {
            assert!(begun.elapsed() < LIMIT, "no more checkpoints after step {last}");
            sleep(Duration::from_millis(1));
        }
        sleep(delay);
        signal("KILL", running.rank(0).unwrap());
        let outcome = running.wait();
        // It may have come to its end before.
        assert!(matches!(outcome.code, None | Some(0)), "{outcome:?}");
        outcome.expect_said(&[&format!("from step {last}")]);
        // What was saved before is what the next round starts from, or a later one.
        let saved = saved(&fixture);
        assert!(saved >= last, "went back from {last} to {saved}");
        last = saved;
    }
    fixture.train(1, "stage1.toml", "run", &sets, &["--resume", "auto"]).expect_success();
    assert_eq!(fixture.metrics("whole").repeatable(), fixture.metrics("run").repeatable());
    assert!(fixture.weights("whole", STEPS) == fixture.weights("run", STEPS), "other weights or optimizer state");
}

/// The newest complete checkpoint of `run`; 0 without one.
fn saved(fixture: &Fixture) -> u64 {
    let entries = std::fs::read_dir(fixture.path("run/checkpoints")).into_iter().flatten().flatten();
    let step = |entry: std::fs::DirEntry| {
        let complete = entry.path().join("COMPLETE").exists();
        entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok().filter(|_| complete)
    };
    entries.filter_map(step).max().unwrap_or(0)
}
