//! Where one process works, another keeps out with a line that says so, and touches nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::thread::sleep;
use std::time::{Duration, Instant};

use echat_tests::{Fixture, Outcome, Running, signal};

/// As another process has it that works in `dir`.
fn held(fixture: &Fixture, dir: &str) -> File {
    fixture.write(&format!("{dir}/.lock"), "");
    let file = File::open(fixture.path(dir).join(".lock")).unwrap();
    file.try_lock().unwrap();
    file
}

/// `work` is refused while another process works in `dir`, and done when that has ended.
fn assert_waits(fixture: &Fixture, dir: &str, parts: &[&str], work: impl Fn() -> Outcome) {
    let other = held(fixture, dir);
    let before = fixture.contents(dir);
    work().expect_error(parts);
    assert_eq!(before, fixture.contents(dir));
    drop(other);
    work().expect_success();
}

/// A job that goes on in `run` until it is killed; it has saved a checkpoint.
fn under_way(fixture: &Fixture, config: &str, run: &str, sets: &[&str]) -> Running {
    let sets = [sets, &["train.steps=1000000", "checkpoint.every_steps=10"]].concat();
    let mut running = fixture.start_train(2, config, run, &sets, &[]);
    let begun = Instant::now();
    let saved = || {
        let mut there = fs::read_dir(fixture.path(run).join("checkpoints")).into_iter().flatten().flatten();
        there.any(|checkpoint| checkpoint.path().join("COMPLETE").exists())
    };
    while !saved() {
        assert!(!running.has_ended() && begun.elapsed() < Duration::from_secs(120), "no checkpoint");
        sleep(Duration::from_millis(2));
    }
    running
}

fn kill(mut running: Running) {
    assert!(!running.has_ended());
    signal("KILL", running.rank(0).unwrap());
    running.wait();
}

#[test]
fn a_run_is_trained_by_one_job_at_a_time() {
    let fixture = Fixture::new();
    let first = under_way(&fixture, "stage1.toml", "run", &[]);
    for resume in ["auto", &fixture.arg("run")] {
        let second = fixture.train(2, "stage1.toml", "run", &[], &["--resume", resume]);
        second.expect_error(&["another process trains in ", "/run: end it first"]);
    }
    kill(first);
}

#[test]
fn a_run_that_does_not_begin_yet_is_not_begun_twice() {
    let fixture = Fixture::new();
    assert_waits(&fixture, "run", &["another process trains in "], || {
        fixture.train(1, "stage1.toml", "run", &["train.steps=1"], &[])
    });
}

#[test]
fn shards_are_made_by_one_job_at_a_time() {
    let fixture = Fixture::new();
    let (manifest, out) = (fixture.arg("train.jsonl"), fixture.arg("shards"));
    assert_waits(&fixture, "shards", &["/shards: another `echat prepare` is writing there"], || {
        fixture.echat(2, &["prepare", &manifest, &out])
    });
}

#[test]
fn a_cache_of_features_is_made_by_one_job_at_a_time_and_read_by_many() {
    let fixture = Fixture::new();
    let sets = ["model.init=[]", "data.cache=\"{root}/cache\""];
    let short = || fixture.train(2, "stage2.toml", "short", &[&sets[..], &["train.steps=2"]].concat(), &[]);
    assert_waits(&fixture, "cache", &["/cache: another job is making this cache"], || {
        let outcome = short();
        let _ = fs::remove_dir_all(fixture.path("short"));
        outcome
    });
    let long = under_way(&fixture, "stage2.toml", "long", &sets);
    short().expect_success();
    kill(long);
}
