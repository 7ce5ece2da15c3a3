//! Shared by the tests of ops: inputs from a seed, comparisons that NaN never passes, thread pools,
//! finite differences. A file that includes it also runs all its tests with narrower instruction sets.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use candle_core::{DType, Device, Tensor};
use echat_kernels::rng;
use echat_kernels::simd::{SIMD_VARIABLE, SimdLevel};

/// Runs this file's tests again, in processes of their own, with each instruction set of this
/// processor but the widest. Kernels of a GPU, which do not depend on it, are left out.
#[test]
fn with_narrower_instruction_sets() {
    if std::env::var_os(SIMD_VARIABLE).is_some() {
        return;
    }
    for level in SimdLevel::available().skip(1) {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        let output = tests
            .args(["--skip", "emulated", "--skip", "mma::", "--skip", "warpgroups"])
            .env(SIMD_VARIABLE, level.name())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "with {SIMD_VARIABLE}={}:\n{}\n{}",
            level.name(),
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}

/// An f32 tensor of uniform values in [-1, 1), the same for the same seed and shape.
pub fn random(seed: u64, shape: &[usize]) -> Tensor {
    let stream = rng::key(rng::site("tests"), seed);
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (2.0 * rng::uniform(rng::key(stream, i as u64)) - 1.0) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// `t` stored as bf16, rounded to nearest even.
pub fn bf16(t: &Tensor) -> Tensor {
    t.to_dtype(DType::BF16).unwrap()
}

/// The elements of `t`, row-major.
pub fn to_f64(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The loss and the number of right answers that a loss op's `sums` hold.
pub fn loss_and_correct(sums: &Tensor) -> (f64, u64) {
    let sums: Vec<f64> = sums.to_vec1().unwrap();
    (sums[0], sums[1] as u64)
}

/// The bit patterns of the elements of `t` (widened to f32, which is exact), for bitwise comparison.
pub fn bits(t: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// `|got - want| / |want|` in the 2-norm (the plain `|got|` where `want` is all zeros). Infinity where the lengths
/// differ or anything is not finite.
pub fn rel_l2(got: &[f64], want: &[f64]) -> f64 {
    if got.len() != want.len() || got.iter().chain(want).any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    let scale: f64 = want.iter().map(|w| w * w).sum();
    if scale == 0.0 { error.sqrt() } else { (error / scale).sqrt() }
}

/// Asserts that `got` is within `tol` of `want` by [`rel_l2`].
#[track_caller]
pub fn assert_close(got: &Tensor, want: &[f64], tol: f64, what: &str) {
    let got = to_f64(got);
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let error = rel_l2(&got, want);
    assert!(error <= tol, "{what}: relative L2 error {error:.3e} exceeds {tol:.0e}");
}

/// Runs `f` in a pool of `n` threads.
pub fn at_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

/// Asserts that `f` returns the same with every instruction set that promises the same bits.
pub fn with_same_bits<R: PartialEq + Send>(f: impl Fn() -> R + Sync) {
    let levels = SimdLevel::available().filter(|level| *level != SimdLevel::Portable);
    let results: Vec<_> = levels.map(|level| (level, level.pool(2).unwrap().install(&f))).collect();
    for (level, result) in &results {
        assert!(*result == results[0].1, "{level} and {} differ", results[0].0);
    }
}

/// The gradient of `f` at `at` by central differences.
pub fn finite_difference(f: impl Fn(&[f64]) -> f64, at: &[f64]) -> Vec<f64> {
    let mut x = at.to_vec();
    (0..at.len())
        .map(|i| {
            let step = 1e-5 * at[i].abs().max(1.0);
            x[i] = at[i] + step;
            let above = f(&x);
            x[i] = at[i] - step;
            let below = f(&x);
            x[i] = at[i];
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// The tests named, with the ops done by kernels as host C++.
#[cfg(feature = "emulate")]
#[macro_export]
macro_rules! emulated {
    ($($test:ident),* $(,)?) => {
        mod emulated {
            $(#[test] fn $test() { echat_kernels::cuda::emulated(super::$test); })*
        }
    };
}
