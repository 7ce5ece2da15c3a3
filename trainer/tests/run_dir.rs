//! Where a run starts: fresh, from the newest checkpoint, or from a named one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use echat::checkpoint::run_dir::{CHECKPOINTS, Resume, find, prepare};
use echat::checkpoint::{Checkpoint, CheckpointConfig, Error, save};
use tempfile::TempDir;

/// A run with checkpoints of these steps.
fn run(steps: &[u64]) -> (TempDir, Vec<PathBuf>) {
    let dir = TempDir::new().unwrap();
    let paths = steps.iter().map(|&step| {
        let state = serde_json::Value::Null;
        let checkpoint = Checkpoint { step, tensors: vec![], optimizer: vec![], state, metrics: BTreeMap::new() };
        save(&dir.path().join(CHECKPOINTS), &checkpoint, &CheckpointConfig::default()).unwrap().path
    });
    let paths = paths.collect();
    (dir, paths)
}

fn damage(checkpoint: &Path) {
    fs::write(checkpoint.join("state.json"), "NULL\n").unwrap();
}

#[test]
fn resume_is_parsed() {
    assert_eq!("none".parse(), Ok(Resume::None));
    assert_eq!("auto".parse(), Ok(Resume::Auto));
    assert_eq!("runs/a".parse(), Ok(Resume::Path("runs/a".into())));
}

#[test]
fn a_fresh_run_creates_its_directory() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("runs/new");
    assert_eq!(prepare(&out, &Resume::None).unwrap().from, None);
    assert!(out.is_dir());
}

#[test]
fn a_fresh_run_in_a_used_directory_is_an_error() {
    let (dir, _) = run(&[1]);
    let error = prepare(dir.path(), &Resume::None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "output directory {} is not empty: continue it with --resume auto, or choose another directory",
            dir.path().display()
        )
    );
}

#[test]
fn auto_takes_the_newest_good_one_and_warns_of_others() {
    let (dir, paths) = run(&[1, 2, 3]);
    assert_eq!(prepare(dir.path(), &Resume::Auto).unwrap().from.as_ref(), Some(&paths[2]));
    damage(&paths[2]);
    let start = prepare(dir.path(), &Resume::Auto).unwrap();
    assert_eq!(start.from.as_ref(), Some(&paths[1]));
    assert!(start.warnings.len() == 1 && start.warnings[0].contains("step-00000003"), "{:?}", start.warnings);
}

#[test]
fn auto_starts_from_the_beginning_when_nothing_was_saved_yet() {
    let dir = TempDir::new().unwrap();
    let start = prepare(&dir.path().join("new"), &Resume::Auto).unwrap();
    assert!(start.from.is_none() && start.warnings.is_empty());
}

#[test]
fn auto_does_not_start_over_when_all_checkpoints_are_damaged() {
    let (dir, paths) = run(&[1]);
    damage(&paths[0]);
    let error = prepare(dir.path(), &Resume::Auto).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }) && error.to_string().contains("state.json is damaged"), "{error}");
}

#[test]
fn a_named_checkpoint_of_another_run_starts_in_an_empty_directory() {
    let (other, paths) = run(&[1, 2]);
    let dir = TempDir::new().unwrap();
    for (path, from) in [(paths[0].clone(), 0), (other.path().to_owned(), 1), (other.path().join(CHECKPOINTS), 1)] {
        assert_eq!(prepare(dir.path(), &Resume::Path(path)).unwrap().from.as_ref(), Some(&paths[from]));
    }
    fs::write(dir.path().join("metrics.jsonl"), "").unwrap();
    let error = prepare(dir.path(), &Resume::Path(paths[0].clone())).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
}

#[test]
fn a_named_checkpoint_of_the_same_run_must_be_its_newest() {
    let (dir, paths) = run(&[1, 2]);
    assert_eq!(prepare(dir.path(), &Resume::Path(paths[1].clone())).unwrap().from.as_ref(), Some(&paths[1]));
    let error = prepare(dir.path(), &Resume::Path(paths[0].clone())).unwrap_err();
    assert!(matches!(error, Error::Newer { .. }) && error.to_string().contains("up to step-00000002"), "{error}");
}

#[test]
fn a_named_checkpoint_that_is_damaged_incomplete_or_not_there_is_an_error() {
    let (dir, paths) = run(&[1, 2]);
    damage(&paths[0]);
    fs::remove_file(paths[1].join("COMPLETE")).unwrap();
    assert!(matches!(find(&paths[0]), Err(Error::Damaged { .. })));
    assert!(matches!(find(&paths[1]), Err(Error::Incomplete { .. })));
    let error = find(&dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }) && error.to_string().contains("nowhere"), "{error}");
    assert!(matches!(find(TempDir::new().unwrap().path()), Err(Error::NotFound { .. })));
}
