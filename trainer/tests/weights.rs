//! Checkpoints in every form that is read, and one clear line for each that cannot be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{golden, tensors};
use echat::autograd::{Group, Params};
use echat::model::weights::{Checkpoint, Destination, HUBERT, Init, Loader, Naming, VERBATIM, load_by_name};

fn to(prefix: &'static str) -> Destination {
    Destination { prefix, group: Group::Encoder, dtype: DType::F32, device: Device::Cpu }
}

#[test]
fn every_form_holds_the_same_tensors() {
    let reference = tensors(&golden("hubert/forms/weight_g/model.safetensors"));
    let fairseq = golden("hubert/forms/fairseq/tiny-hubert-fairseq-ckpt.pt");
    let forms = ["weight_g", "parametrizations", "bin", "bin_sharded", "safetensors_sharded", "fairseq"];
    for path in forms.map(|form| golden("hubert/forms").join(form)).into_iter().chain([fairseq]) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let names: Vec<(String, &str)> = checkpoint.names().map(|n| ((HUBERT.rename)(n), n)).collect();
        for (name, tensor) in &reference {
            let (_, key) =
                names.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{}: no {name}", path.display()));
            let read = checkpoint.read(&[(*key, DType::F32)], &Device::Cpu).unwrap().remove(0);
            assert_eq!(checkpoint.shape(key).unwrap(), tensor.dims());
            assert_eq!(read.dims(), tensor.dims());
            assert_eq!(common::to_f64(&read), common::to_f64(tensor), "{}: {name}", path.display());
        }
        let left: Vec<&str> = names.iter().map(|(n, _)| n.as_str()).filter(|n| !reference.contains_key(*n)).collect();
        assert!(left.iter().all(|n| (HUBERT.ignorable)(n)), "{}: {left:?}", path.display());
        assert_eq!(left.len(), if path.to_str().unwrap().contains("fairseq") { 3 } else { 0 });
    }
}

fn error(path: &Path) -> String {
    let error = Checkpoint::open(path).err().expect("an error").to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "names the path: {error}");
    error
}

#[test]
fn a_missing_path_and_an_empty_directory_say_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error(&dir.path().join("nowhere")).contains("no such file or directory"));
    let empty = error(dir.path());
    for name in ["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "*.pt"] {
        assert!(empty.contains(name), "{empty}");
    }
    std::fs::write(dir.path().join("a.pt"), "PK").unwrap();
    std::fs::write(dir.path().join("b.pt"), "PK").unwrap();
    assert!(error(dir.path()).contains("several .pt files"));
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(golden("hubert/forms/weight_g/model.safetensors")).unwrap();
    let file = dir.path().join("model.safetensors");
    for len in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..len]).unwrap();
        assert!(error(&file).contains("not a whole safetensors file"), "{len} bytes");
    }
    let bin = dir.path().join("pytorch_model.bin");
    let whole = std::fs::read(golden("hubert/forms/bin/pytorch_model.bin")).unwrap();
    for len in [4, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&bin, &whole[..len]).unwrap();
        error(&bin);
    }
    std::fs::write(&bin, b"\x80\x02\x8a\x0a").unwrap();
    assert!(error(&bin).contains("not a zip archive"));
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let write = |text: &str| std::fs::write(&index, text).unwrap();
    write(r#"{"weight_map": {"a": "model-1.safetensors"}}"#);
    let missing = Checkpoint::open(dir.path()).err().unwrap().to_string();
    assert!(missing.contains("model-1.safetensors") && missing.contains("no such file"), "{missing}");
    let a = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    a.save_safetensors("b", dir.path().join("model-1.safetensors")).unwrap();
    assert!(error(&index).contains("`a` is not in model-1.safetensors"));
    write(r#"{"weight_map": {"a": "../model-1.safetensors"}}"#);
    assert!(error(&index).contains("not a file name"));
    write(r#"{"weight_map": {}}"#);
    assert!(error(&index).contains("names no shard"));
    write("{");
    error(&index);
}

fn small(dir: &Path) -> Checkpoint {
    let t = Tensor::arange(0f32, 12f32, &Device::Cpu).unwrap().reshape((2, 3, 2)).unwrap();
    let list = [
        ("conv", t),
        ("w", Tensor::ones(3, DType::BF16, &Device::Cpu).unwrap()),
        ("x.inv_freq", Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap()),
    ];
    let file = dir.join("small.safetensors");
    candle_core::safetensors::save(&list.map(|(n, t)| (n.to_owned(), t)).into(), &file).unwrap();
    Checkpoint::open(&file).unwrap()
}

#[test]
fn what_is_missing_unused_or_of_another_shape_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let naming = Naming { ignorable: |name| name.ends_with("inv_freq"), ..VERBATIM };
    let (mut a, mut b, mut c) = (Params::frozen(), Params::frozen(), Params::frozen());
    let loader = Loader::from_checkpoint(small(dir.path()), &naming, &mut a, to("m"));
    for name in ["p", "q", "r", "s"] {
        loader.pp("deep").param(name, &[1], Init::ZEROS).unwrap();
    }
    let missing = loader.finish().err().unwrap().to_string();
    assert!(missing.contains("4 of the model's tensors missing: `deep.p`, `deep.q`, `deep.r`, …"), "{missing}");

    let loader = Loader::from_checkpoint(small(dir.path()), &naming, &mut b, to("m"));
    let w = loader.param("w", &[3], Init::ZEROS).unwrap();
    assert_eq!((w.name(), w.tensor().dtype()), ("m.w", DType::F32));
    assert_eq!(loader.optional("new", &[2], Init::ONES).unwrap().tensor().to_vec1::<f32>().unwrap(), [1.0, 1.0]);
    let report = loader.finish().unwrap().report;
    assert_eq!(report.unused, ["conv"]);
    assert_eq!(report.ignored, ["x.inv_freq"]);
    assert_eq!(report.initialised, ["new"]);
    assert!(report.warning(dir.path()).unwrap().contains("1 tensors the model does not use: `conv`"));

    let loader = Loader::from_checkpoint(small(dir.path()), &naming, &mut c, to("m"));
    let wrong = loader.param("w", &[4], Init::ZEROS).err().unwrap().to_string();
    assert!(wrong.contains("`w` has shape [3]; the model is configured for [4]"), "{wrong}");
}

#[test]
fn convolution_weights_become_gemm_operands_and_export_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = Params::frozen();
    let loader = Loader::from_checkpoint(small(dir.path()), &VERBATIM, &mut params, to("m"));
    let conv = loader.conv("conv", 2, 3, 2, Init::ZEROS).unwrap();
    let loaded = loader.finish().unwrap();
    // File [c_out, c_in, k] = 0..12; tap-major rows hold, for each tap, the channels.
    let expected = [[0.0, 2.0, 4.0, 1.0, 3.0, 5.0], [6.0, 8.0, 10.0, 7.0, 9.0, 11.0]];
    assert_eq!(conv.tensor().to_vec2::<f32>().unwrap(), expected);
    let out = dir.path().join("out");
    loaded.manifest.export(&out, &serde_json::json!({"model_type": "small"})).unwrap();
    let back = tensors(&out.join("model.safetensors"));
    let original = tensors(&dir.path().join("small.safetensors"));
    assert_eq!(back.len(), 1);
    assert_eq!(back["conv"].to_vec3::<f32>().unwrap(), original["conv"].to_vec3::<f32>().unwrap());
    assert!(std::fs::read_to_string(out.join("config.json")).unwrap().contains("small"));
}

#[test]
fn initial_values_load_by_registered_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = Params::frozen();
    let loader = Loader::random(3, &mut params, to("m"));
    let (kept, replaced) =
        (loader.param("kept", &[2], Init::LINEAR).unwrap(), loader.param("w", &[2], Init::ONES).unwrap());
    loader.finish().unwrap();
    let before = kept.tensor().to_vec1::<f32>().unwrap();
    let save = |name: &str, len: usize| {
        let t = Tensor::full(7f32, len, &Device::Cpu).unwrap();
        let file = dir.path().join("init.safetensors");
        t.save_safetensors(name, &file).unwrap();
        Checkpoint::open(&file).unwrap()
    };
    let (count, report) = load_by_name(&params, &save("m.w", 2)).unwrap();
    assert_eq!((count, report.unused.len()), (1, 0));
    assert_eq!(replaced.tensor().to_vec1::<f32>().unwrap(), [7.0, 7.0]);
    assert_eq!(kept.tensor().to_vec1::<f32>().unwrap(), before);
    assert!(
        load_by_name(&params, &save("other", 2)).err().unwrap().to_string().contains("none of the model's tensors")
    );
    assert!(
        load_by_name(&params, &save("m.w", 3))
            .err()
            .unwrap()
            .to_string()
            .contains("[3]; the model is configured for [2]")
    );
}

/// As candle converts them, wherever in the file they lie: the header's length decides how they are aligned.
#[test]
fn every_float_is_read_as_either_dtype() {
    let dir = tempfile::tempdir().unwrap();
    let wide: Vec<f64> = (0..3_000_007).map(|i| f64::from(i as f32).sin() * 10f64.powi(i % 13 - 9)).collect();
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, 65_520.0];
    let wide = Tensor::new([wide, special.to_vec()].concat(), &Device::Cpu).unwrap();
    let stored = [DType::F64, DType::F32, DType::F16, DType::BF16].map(|dtype| wide.to_dtype(dtype).unwrap());
    let whole = dir.path().join("whole.safetensors");
    let named = stored.iter().map(|t| (format!("{:?}", t.dtype()), t.clone()));
    candle_core::safetensors::save(&named.collect(), &whole).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    for spaces in [0, 1, 3] {
        let path = dir.path().join(format!("{spaces}.safetensors"));
        let header = u64::from_le_bytes(*length);
        let (text, data) = rest.split_at(header as usize);
        let length = (header + spaces).to_le_bytes();
        std::fs::write(&path, [&length, text, &vec![b' '; spaces as usize], data].concat()).unwrap();
        let file = Checkpoint::open(&path).unwrap();
        let names: Vec<String> = stored.iter().map(|t| format!("{:?}", t.dtype())).collect();
        for dtype in [DType::F32, DType::BF16] {
            let wanted: Vec<_> = names.iter().map(|name| (name.as_str(), dtype)).collect();
            for (read, t) in file.read(&wanted, &Device::Cpu).unwrap().iter().zip(&stored) {
                let bits = |t: &Tensor| {
                    let wide = t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
                    wide.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                assert_eq!(read.dtype(), dtype);
                assert!(bits(read) == bits(&t.to_dtype(dtype).unwrap()), "{:?} as {dtype:?}, {spaces}", t.dtype());
            }
        }
    }
}

#[test]
fn weights_that_are_no_floats_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids.safetensors");
    Tensor::new(&[1i64, 2], &Device::Cpu).unwrap().save_safetensors("ids", &path).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    let refused = |name| file.read(&[(name, DType::F32)], &Device::Cpu).err().unwrap().to_string();
    let want = format!("{}: tensor `ids`: weights of I64 are not read; convert it to F32, F16 or BF16", path.display());
    assert_eq!(refused("ids"), want);
    assert!(refused("other").contains("1 of the model's tensors missing: other"));
    let error = file.shape("other").err().unwrap().to_string();
    assert!(error.contains("other"), "{error}");
}

#[test]
fn a_parameter_has_its_shape_at_once_and_its_values_when_loading_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = Params::frozen();
    let loader = Loader::from_checkpoint(small(dir.path()), &VERBATIM, &mut params, to("m"));
    let (conv, w) = (loader.conv("conv", 2, 3, 2, Init::ZEROS).unwrap(), loader.param("w", &[3], Init::ZEROS).unwrap());
    assert_eq!((conv.tensor().dims(), w.tensor().dims()), (&[2, 6][..], &[3][..]));
    loader.finish().unwrap();
    assert_eq!((conv.tensor().dims(), w.tensor().to_vec1::<f32>().unwrap()), (&[2, 6][..], vec![1.0; 3]));
}

/// In a process of its own, which this ends.
#[test]
#[ignore = "the test below runs it"]
fn reads_a_file_that_is_truncated_meanwhile() {
    let path = std::env::var_os("TRUNCATED").expect("run by the test below");
    echat::data::shard::say_truncated("error: ").unwrap();
    let file = Checkpoint::open(Path::new(&path)).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    let read = file.read(&[("w", DType::BF16)], &Device::Cpu);
    panic!("it was read: {:?}", read.map(|t| t.len()));
}

#[test]
fn weights_truncated_while_they_are_read_end_the_process_with_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    Tensor::zeros(5_000_000, DType::F32, &Device::Cpu).unwrap().save_safetensors("w", &path).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "reads_a_file_that_is_truncated_meanwhile", "--nocapture"]);
    let output = child.env("TRUNCATED", &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let line = format!("error: {}: truncated while in use; restore it and resume", path.display());
    assert_eq!((output.status.code(), said.lines().last()), (Some(1), Some(line.as_str())), "{said}");
}
