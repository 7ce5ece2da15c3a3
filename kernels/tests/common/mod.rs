//! What the ops' tests share: inputs from a seed, comparisons that NaN never passes, thread pools, finite differences.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use candle_core::{DType, Device, Tensor};
use echat_kernels::rng;

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
