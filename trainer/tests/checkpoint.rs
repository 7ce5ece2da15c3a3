//! Saving, keeping and loading checkpoints, and every way one can be bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use echat::checkpoint::{
    Better, Checkpoint, CheckpointConfig, Error, best, expect_tensors, latest_complete, load, save, verify,
};
use half::bf16;
use serde_json::json;
use tempfile::TempDir;

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

fn checkpoint(step: u64) -> Checkpoint {
    let flat = tensor(&[step as f32, 1.0, -0.0, f32::MIN_POSITIVE, 1e-40, f32::INFINITY], &[6]);
    let wide: Vec<f32> = (0..200_000).map(|i| (i as f32).sin()).collect();
    Checkpoint {
        step,
        tensors: vec![
            ("z.weight".into(), flat.narrow(0, 0, 4).unwrap().reshape((2, 2)).unwrap()),
            ("a.half".into(), tensor(&[1.0, 2.5, -3.0], &[3]).to_dtype(DType::BF16).unwrap()),
            ("scalar".into(), tensor(&[7.0], &[])),
            ("none".into(), tensor(&[], &[0, 3])),
        ],
        optimizer: vec![
            ("m".into(), tensor(&wide, &[400, 500])),
            ("transposed".into(), tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).t().unwrap()),
        ],
        state: json!({"step": step, "loss": 0.1 + 0.2, "tiny": 5e-324, "seed": u64::MAX}),
        metrics: BTreeMap::from([("valid/loss".into(), (step as f64 - 30.0).abs()), ("bad".into(), f64::NAN)]),
    }
}

fn config(keep_last: usize, keep_best: usize) -> CheckpointConfig {
    CheckpointConfig { keep_last, keep_best, ..CheckpointConfig::default() }
}

fn saved(dir: &TempDir, steps: &[u64], config: &CheckpointConfig) -> PathBuf {
    let mut path = PathBuf::new();
    for &step in steps {
        let saved = save(dir.path(), &checkpoint(step), config).unwrap();
        assert!(saved.warnings.is_empty(), "{:?}", saved.warnings);
        path = saved.path;
    }
    path
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bits(tensors: &[(String, Tensor)]) -> BTreeMap<String, (Vec<usize>, DType, Vec<u32>)> {
    tensors
        .iter()
        .map(|(n, t)| {
            let values: Vec<f32> = t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap();
            (n.clone(), (t.dims().to_vec(), t.dtype(), values.into_iter().map(f32::to_bits).collect()))
        })
        .collect()
}

#[test]
fn what_was_saved_comes_back_bit_by_bit() {
    let dir = TempDir::new().unwrap();
    let path = saved(&dir, &[42], &config(3, 0));
    assert_eq!(names(dir.path()), ["step-00000042"]);
    assert_eq!(names(&path), ["COMPLETE", "MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"]);
    let (want, got) = (checkpoint(42), load(&path).unwrap());
    assert_eq!(got.step, 42);
    assert_eq!(bits(&got.tensors), bits(&want.tensors));
    assert_eq!(bits(&got.optimizer), bits(&want.optimizer));
    assert_eq!(got.state, want.state);
    assert_eq!(got.state["loss"].as_f64().unwrap().to_bits(), (0.1f64 + 0.2).to_bits());
    assert_eq!(got.metrics, BTreeMap::from([("valid/loss".into(), 12.0)]), "NaN is left out");
}

#[test]
fn the_files_are_safetensors_and_sha256sum_agrees() {
    let dir = TempDir::new().unwrap();
    let path = saved(&dir, &[1], &config(3, 0));
    let bytes = fs::read(path.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let half = file.tensor("a.half").unwrap();
    assert_eq!(half.shape(), [3]);
    assert_eq!(half.data()[2..4], bf16::from_f32(2.5).to_le_bytes());
    assert_eq!(file.len(), 4);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(path.join("MANIFEST.json")).unwrap()).unwrap();
    let out = std::process::Command::new("sha256sum").arg(path.join("model.safetensors")).output().unwrap();
    let sum = String::from_utf8(out.stdout).unwrap();
    assert_eq!(sum.split(' ').next(), manifest["files"]["model.safetensors"]["sha256"].as_str());
}

#[test]
fn the_last_and_the_best_are_kept() {
    let dir = TempDir::new().unwrap();
    // The metric is |step - 30|.
    saved(&dir, &[10, 20, 30, 40, 50, 60], &config(2, 1));
    assert_eq!(names(dir.path()), ["step-00000030", "step-00000050", "step-00000060"]);
    let path = |step: u64| Some(dir.path().join(format!("step-{step:08}")));
    assert_eq!(best(dir.path(), "valid/loss", Better::Lower).unwrap(), path(30));
    assert_eq!(best(dir.path(), "valid/loss", Better::Higher).unwrap(), path(60));
    assert_eq!(best(dir.path(), "nonsense", Better::Lower).unwrap(), None);
    assert_eq!(latest_complete(dir.path()).unwrap().path, path(60));
}

#[test]
fn keep_last_zero_keeps_all() {
    let dir = TempDir::new().unwrap();
    saved(&dir, &[1, 2, 3, 4, 5], &config(0, 0));
    assert_eq!(names(dir.path()).len(), 5);
}

#[test]
fn the_one_just_saved_stays_even_if_others_have_later_steps() {
    let dir = TempDir::new().unwrap();
    saved(&dir, &[100, 200, 50], &config(1, 0));
    assert_eq!(names(dir.path()), ["step-00000050", "step-00000200"]);
}

#[test]
fn a_step_saved_again_replaces_the_first() {
    let dir = TempDir::new().unwrap();
    saved(&dir, &[7], &config(1, 0));
    let again = Checkpoint { state: json!({"again": true}), ..checkpoint(7) };
    let path = save(dir.path(), &again, &config(1, 0)).unwrap().path;
    assert_eq!(load(&path).unwrap().state, again.state);
    assert_eq!(names(dir.path()), ["step-00000007"]);
}

#[test]
fn leftovers_of_interrupted_saves_are_passed_over_and_then_removed() {
    let dir = TempDir::new().unwrap();
    let good = saved(&dir, &[10], &config(3, 0));
    fs::create_dir(dir.path().join(".tmp-step-00000020")).unwrap();
    let unmarked = dir.path().join("step-00000015");
    fs::create_dir(&unmarked).unwrap();
    fs::write(unmarked.join("model.safetensors"), "half").unwrap();
    fs::write(dir.path().join("step-notes.txt"), "mine").unwrap();
    let latest = latest_complete(dir.path()).unwrap();
    assert_eq!((latest.path, latest.damaged), (Some(good), false));
    assert_eq!(latest.skipped, [format!("skipping {}: it was not saved to the end", unmarked.display())]);
    saved(&dir, &[20], &config(3, 0));
    assert_eq!(names(dir.path()), ["step-00000010", "step-00000020", "step-notes.txt"]);
}

fn spoil(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// Spoils `file` of the newest of two checkpoints; loading it must fail with one line that has `expected`, and the older
/// one must be found.
fn falls_back(file: &str, change: impl FnOnce(&mut Vec<u8>), expected: &str) {
    let dir = TempDir::new().unwrap();
    let newest = saved(&dir, &[10, 20], &config(3, 0));
    spoil(&newest.join(file), change);
    for error in [load(&newest).unwrap_err(), verify(&newest).unwrap_err()] {
        let line = error.to_string();
        assert!(line.contains(expected) && line.contains(file) && !line.contains('\n'), "{line}");
        assert!(matches!(error, Error::Damaged { .. }), "{line}");
    }
    let latest = latest_complete(dir.path()).unwrap();
    assert_eq!(latest.path, Some(dir.path().join("step-00000010")));
    assert!(
        latest.damaged && latest.skipped.len() == 1 && latest.skipped[0].contains(expected),
        "{:?}",
        latest.skipped
    );
}

#[test]
fn a_truncated_file_is_an_error_and_falls_back() {
    falls_back("model.safetensors", |b| b.truncate(100), "it has 100 bytes, ");
    falls_back("optimizer.safetensors", |b| b.truncate(b.len() - 1), "were saved");
    falls_back("state.json", Vec::clear, "it has 0 bytes");
}

#[test]
fn a_flipped_bit_is_an_error_and_falls_back() {
    falls_back("model.safetensors", |b| *b.last_mut().unwrap() ^= 1, "SHA-256");
    // The length of the header, its text, and a value.
    falls_back("optimizer.safetensors", |b| b[0] ^= 0x40, "SHA-256");
    falls_back("optimizer.safetensors", |b| b[7] ^= 0x40, "SHA-256");
    falls_back("optimizer.safetensors", |b| b[9] ^= 0x40, "SHA-256");
    falls_back("optimizer.safetensors", |b| b[500_000] ^= 0x40, "SHA-256");
    falls_back("state.json", |b| b[3] ^= 1, "SHA-256");
    falls_back("MANIFEST.json", |b| b[20] ^= 1, "SHA-256");
}

#[test]
fn a_missing_file_is_an_error_and_falls_back() {
    let dir = TempDir::new().unwrap();
    let newest = saved(&dir, &[10, 20], &config(3, 0));
    fs::remove_file(newest.join("optimizer.safetensors")).unwrap();
    let error = load(&newest).unwrap_err();
    assert!(matches!(error, Error::Read { .. }) && error.to_string().contains("optimizer.safetensors"), "{error}");
    assert_eq!(latest_complete(dir.path()).unwrap().path, Some(dir.path().join("step-00000010")));
}

#[test]
fn an_unmarked_checkpoint_does_not_load() {
    let dir = TempDir::new().unwrap();
    let path = saved(&dir, &[10], &config(3, 0));
    fs::remove_file(path.join("COMPLETE")).unwrap();
    assert!(matches!(load(&path), Err(Error::Incomplete { .. })));
    assert!(latest_complete(dir.path()).unwrap().path.is_none());
}

#[test]
fn a_format_from_the_future_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = saved(&dir, &[10], &config(3, 0));
    let manifest = fs::read_to_string(path.join("MANIFEST.json")).unwrap().replace("\"format\": 1", "\"format\": 2");
    fs::write(path.join("MANIFEST.json"), manifest).unwrap();
    let out = std::process::Command::new("sha256sum").arg(path.join("MANIFEST.json")).output().unwrap();
    fs::write(path.join("COMPLETE"), &out.stdout[..64]).unwrap();
    let error = load(&path).unwrap_err();
    assert!(error.to_string().contains("checkpoint format 2, this echat reads format 1"), "{error}");
}

#[test]
fn tensors_of_another_model_are_listed() {
    let (path, found) = (Path::new("step-00000001"), checkpoint(1).tensors);
    let expect = |expected: &[(&str, &[usize])]| {
        expect_tensors(path, expected.iter().copied(), &found).map_err(|error| error.to_string())
    };
    assert_eq!(expect(&[("z.weight", &[2, 2]), ("a.half", &[3]), ("scalar", &[]), ("none", &[0, 3])]), Ok(()));
    assert_eq!(
        expect(&[("z.weight", &[4]), ("b", &[1]), ("c", &[1]), ("d", &[1]), ("e", &[1]), ("none", &[0, 3])]),
        Err("step-00000001 does not fit the model: 4 tensors missing: b, c, d, …; 1 tensor of another shape: z.weight \
             ([2, 2] saved, [4] needed); 2 tensors not in the model: a.half, scalar; use the configuration it was saved with"
            .into())
    );
}

#[test]
fn what_cannot_be_saved_is_an_error_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    saved(&dir, &[1], &config(3, 0));
    let ids = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
    let twice = vec![("w".to_owned(), tensor(&[1.0], &[1])), ("w".to_owned(), tensor(&[2.0], &[1]))];
    for (tensors, problem) in [(vec![("ids".to_owned(), ids)], "U32"), (twice, "two of that name")] {
        let error = save(dir.path(), &Checkpoint { tensors, ..checkpoint(2) }, &config(3, 0)).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    assert_eq!(names(dir.path()), ["step-00000001"]);
}
