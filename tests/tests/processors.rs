//! A run that goes on with another instruction set: its results, and the line that says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::env::consts::ARCH;

use echat_kernels::simd::{SIMD_VARIABLE, SimdLevel};
use echat_tests::{Fixture, Outcome, Running, assert_close};

const SETS: [&str; 2] = ["train.steps=20", "checkpoint.every_steps=10"];

fn train(fixture: &Fixture, run: &str, level: SimdLevel, more: &[&str]) -> Outcome {
    let args = fixture.train_args("stage1.toml", run, &SETS, more);
    let env = [(SIMD_VARIABLE.to_owned(), level.name().to_owned())];
    Running::start_with(1, &args, &env).wait().expect_success()
}

#[test]
fn a_run_goes_on_with_another_instruction_set_and_says_so() {
    let fixture = Fixture::new();
    let widest = SimdLevel::available().next().unwrap();
    let first = train(&fixture, "whole", widest, &[]);
    first.expect_said(&[&format!("1 threads each, {ARCH} {}, from step 0", widest.name())]);
    assert!(!first.stdout.contains("another processor"), "{}", first.stdout);
    let whole = fixture.metrics("whole");
    for level in SimdLevel::available() {
        let run = level.name();
        fixture.copy_run("whole", run);
        std::fs::remove_dir_all(fixture.checkpoint(run, 20)).unwrap();
        let outcome = train(&fixture, run, level, &["--resume", "auto"]);
        let change =
            format!("resumed on another processor: {ARCH} {run}; before step 10 it was {ARCH} {}: ", widest.name());
        assert_eq!(outcome.stdout.contains(&change), level != widest, "{}", outcome.stdout);
        if level == SimdLevel::Portable && level != widest {
            outcome.expect_said(&["results agree to rounding, not bit for bit"]);
            let resumed = fixture.metrics(run).of("train/loss");
            assert_close(run, &whole.of("train/loss"), &resumed, 1e-4);
        } else {
            assert!(!outcome.stdout.contains("to rounding"), "{}", outcome.stdout);
            assert!(fixture.weights("whole", 20) == fixture.weights(run, 20), "{run}: other bits");
            assert_eq!(whole.repeatable(), fixture.metrics(run).repeatable());
        }
    }
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused_before_anything_is_done() {
    let fixture = Fixture::new();
    let args = fixture.train_args("stage1.toml", "run", &[], &[]);
    let env = [(SIMD_VARIABLE.to_owned(), "avx9".to_owned())];
    let outcome = Running::start_with(1, &args, &env).wait();
    outcome.expect_error(&[SIMD_VARIABLE, "\"avx9\"", "portable"]);
    assert!(!fixture.path("run").exists());
}
