//! The vector helpers against std in f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use echat_kernels::simd;

fn all_exp(values: &mut [f32]) {
    simd::run(
        #[inline(always)]
        || values.iter_mut().for_each(|x| *x = simd::exp(*x)),
    );
}

#[test]
fn exp_is_within_its_stated_error() {
    let at: Vec<f32> = (0..2_000_000).map(|i| -87.2 + 175.4 * (i as f32 / 2_000_000.0)).collect();
    let mut got = at.clone();
    all_exp(&mut got);
    let worst = at
        .iter()
        .zip(&got)
        .map(|(x, y)| {
            let want = f64::from(*x).exp();
            let error = (f64::from(*y) - want).abs() / want;
            if error.is_finite() { error } else { f64::INFINITY }
        })
        .fold(0.0, f64::max);
    assert!(worst <= 2e-7, "worst relative error {worst:e}");
}

#[test]
fn exp_at_the_ends() {
    let mut v = [0.0, -0.0, f32::NEG_INFINITY, -1000.0, f32::INFINITY, 1000.0, f32::NAN];
    all_exp(&mut v);
    assert_eq!(v[..6], [1.0, 1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]);
    assert!(v[6].is_nan());
}

#[test]
fn reductions_at_ragged_lengths() {
    for len in [0, 1, 15, 16, 17, 100] {
        let x: Vec<f32> = (0..len).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
        let y: Vec<f32> = (0..len).map(|i| (i * 5 % 11) as f32).collect();
        assert_eq!(simd::sum(&x), x.iter().sum::<f32>());
        assert_eq!(simd::dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>());
        assert_eq!(simd::max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }
}
