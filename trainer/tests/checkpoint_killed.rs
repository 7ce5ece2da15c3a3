//! A process killed while it saves never costs the checkpoint before.
//!
//! Each test runs this very binary, with the program at the end of the file (an ignored test), in the directory of checkpoints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use candle_core::{Device, Tensor};
use echat::checkpoint::{Checkpoint, CheckpointConfig, Stage, latest_complete, load, save, save_with};
use tempfile::TempDir;

const ELEMENTS: usize = 300_000;

fn checkpoint(step: u64) -> Checkpoint {
    let values = vec![step as f32; ELEMENTS];
    let tensor = Tensor::from_vec(values, ELEMENTS, &Device::Cpu).unwrap();
    let (tensors, optimizer) = (vec![("w".into(), tensor.clone())], vec![("m".into(), tensor)]);
    Checkpoint { step, tensors, optimizer, state: step.into(), metrics: BTreeMap::new() }
}

fn keep_one() -> CheckpointConfig {
    CheckpointConfig { keep_last: 1, keep_best: 0, ..CheckpointConfig::default() }
}

/// Loads the newest good checkpoint and checks that it is whole; its step.
fn newest(dir: &Path) -> u64 {
    let latest = latest_complete(dir).unwrap();
    assert!(!latest.damaged, "{:?}", latest.skipped);
    let found = load(&latest.path.expect("a complete checkpoint")).unwrap();
    for (_, tensor) in found.tensors.iter().chain(&found.optimizer) {
        let values: Vec<f32> = tensor.to_vec1().unwrap();
        assert!(values.len() == ELEMENTS && values.iter().all(|&v| v == found.step as f32));
    }
    assert_eq!(found.state.as_u64(), Some(found.step));
    found.step
}

/// Starts the program with `order` on its standard input.
fn start(dir: &Path, order: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["program_saves", "--exact", "--ignored", "--nocapture"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
    child
}

/// Waits for the child to say `SAVED n`; the last `n` when it has ended.
fn last_saved(child: &mut Child) -> Option<u64> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|l| l.split_once("SAVED ")?.1.parse().ok()).last()
}

#[test]
fn killed_at_each_stage() {
    for (i, stage) in Stage::ALL.into_iter().enumerate() {
        // Step 2 for the first time, or over an old step 2.
        for before in [1, 2] {
            let dir = TempDir::new().unwrap();
            save(dir.path(), &checkpoint(before), &keep_one()).unwrap();
            let mut child = start(dir.path(), &format!("2 {i}"));
            let reached = last_saved(&mut child).is_none();
            child.wait().unwrap();
            // The stages that only one of the two cases has.
            let has_stage = match stage {
                Stage::MovedAside => before == 2,
                _ => true,
            };
            assert_eq!(reached, has_stage, "{stage:?} over step {before}");
            let marked = i >= Stage::ALL.iter().position(|s| *s == Stage::Marked).unwrap();
            let want = if marked || !reached { 2 } else { before };
            assert_eq!(newest(dir.path()), want, "{stage:?} over step {before}");
            // And the run goes on as if nothing had happened.
            save(dir.path(), &checkpoint(3), &keep_one()).unwrap();
            assert_eq!(newest(dir.path()), 3);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{stage:?} over step {before}");
        }
    }
}

#[test]
fn killed_at_random_moments() {
    let dir = TempDir::new().unwrap();
    save(dir.path(), &checkpoint(1), &keep_one()).unwrap();
    let mut step = 1;
    let mut random = 1u64;
    for _ in 0..25 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = start(dir.path(), &format!("{} none", step + 1));
        let killer = {
            let id = child.id().to_string();
            let delay = Duration::from_micros(10_000 + (random >> 40) % 60_000);
            std::thread::spawn(move || {
                sleep(delay);
                Command::new("kill").args(["-9", &id]).status().unwrap();
            })
        };
        let said = last_saved(&mut child).unwrap_or(step);
        killer.join().unwrap();
        child.wait().unwrap();
        let found = newest(dir.path());
        assert!(found == said || found == said + 1, "{found} found, {said} was the last said to be saved");
        step = found;
    }
    assert!(step > 1, "no save ever finished");
}

#[test]
#[ignore = "a process of another test"]
fn program_saves() {
    let order = std::io::stdin().lines().next().unwrap().unwrap();
    let (step, stop) = order.split_once(' ').unwrap();
    let stop: Option<Stage> = stop.parse().ok().map(|i: usize| Stage::ALL[i]);
    let first: u64 = step.parse().unwrap();
    for step in first.. {
        save_with(Path::new("."), &checkpoint(step), &keep_one(), &mut |stage| {
            if Some(stage) == stop {
                Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
                sleep(Duration::from_secs(60));
            }
        })
        .unwrap();
        println!("SAVED {step}");
        if stop.is_some() {
            break;
        }
    }
}
