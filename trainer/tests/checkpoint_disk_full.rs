//! A disk that is full while a checkpoint is saved, and one that may not be written to.
//!
//! The program at the end (an ignored test) runs in a mount namespace of its own, on a file system of 3 MB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{Device, Tensor};
use echat::checkpoint::{Checkpoint, CheckpointConfig, latest_complete, load, save};
use tempfile::TempDir;

fn checkpoint(step: u64, elements: usize) -> Checkpoint {
    let tensor = Tensor::full(step as f32, elements, &Device::Cpu).unwrap();
    let (tensors, optimizer) = (vec![("w".into(), tensor.clone())], vec![("m".into(), tensor)]);
    Checkpoint { step, tensors, optimizer, state: step.into(), metrics: BTreeMap::new() }
}

#[test]
fn a_full_disk_is_one_line_and_costs_nothing() {
    let dir = TempDir::new().unwrap();
    let unshare = |script: &str, program: &str| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh"])
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .args([program, "--exact", "--ignored", "--nocapture"])
            .output()
    };
    let mount = "mount -t tmpfs -o size=3m tmpfs \"$1\"; cd \"$1\"";
    match unshare(mount, "-") {
        Ok(out) if out.status.success() => {}
        _ => return println!("not run: this system does not let us mount a small file system"),
    }
    let out = unshare(&format!("{mount}; shift; exec \"$@\""), "program_fills_the_disk").unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

#[test]
#[ignore = "a process of another test"]
fn program_fills_the_disk() {
    let (dir, config) = (Path::new("checkpoints"), CheckpointConfig::default());
    save(dir, &checkpoint(1, 100_000), &config).unwrap();
    // 4 MB do not fit; neither do 2.4 MB beside what is there, where it is the optimizer's file that is too much.
    for (elements, file) in [(1_000_000, "model.safetensors"), (300_000, "optimizer.safetensors")] {
        let line = save(dir, &checkpoint(2, elements), &config).unwrap_err().to_string();
        assert_eq!(
            line,
            format!(
                "cannot write checkpoints/.tmp-step-00000002/{file}: No space left on device (os error 28); free space or \
                 choose an output directory on another disk; checkpoints saved before are intact"
            )
        );
        let left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["step-00000001"]);
        assert_eq!(load(&latest_complete(dir).unwrap().path.unwrap()).unwrap().step, 1);
    }
    // With less to save it goes on.
    save(dir, &checkpoint(2, 100_000), &config).unwrap();
    assert_eq!(load(&latest_complete(dir).unwrap().path.unwrap()).unwrap().step, 2);
}

#[test]
fn an_output_directory_that_is_a_file_is_one_line() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("out");
    fs::write(&file, "").unwrap();
    let line =
        save(&file.join("checkpoints"), &checkpoint(1, 1), &CheckpointConfig::default()).unwrap_err().to_string();
    assert!(line.starts_with(&format!("cannot write {}", file.display())) && !line.contains('\n'), "{line}");
}
