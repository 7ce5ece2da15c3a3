//! What the model tests share: golden files, comparisons that NaN never passes, Python when there is one.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};

/// `tests/golden/{name}`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// `tests/peers/{name}`.
pub fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers").join(name)
}

/// The tensors of a safetensors file.
pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The elements, row-major.
pub fn to_f64(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `|got - want| / |want|` in the 2-norm; infinite if shapes differ or anything is not finite.
pub fn rel_l2(got: &Tensor, want: &Tensor) -> f64 {
    let (g, w) = (to_f64(got), to_f64(want));
    if got.dims() != want.dims() || g.iter().chain(&w).any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let error: f64 = g.iter().zip(&w).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = w.iter().map(|b| b * b).sum();
    if norm == 0.0 { error.sqrt() } else { (error / norm).sqrt() }
}

/// The largest of `errors`, NaN counting as infinite.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |a, b| if b <= a { a } else { b.max(a) })
}

/// A Python (`ECHAT_PYTHON`, else `python3`) that can import `modules`; prints "not run" and why if there is none.
pub fn python(modules: &str, test: &str) -> Option<Command> {
    let program = std::env::var("ECHAT_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&program).args(["-c", &format!("import {modules}")]).output();
    if found.is_ok_and(|out| out.status.success()) {
        return Some(Command::new(program));
    }
    println!("{test}: not run ({program} cannot import {modules}; set ECHAT_PYTHON)");
    None
}
