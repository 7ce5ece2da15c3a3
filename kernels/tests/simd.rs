//! The vector helpers against std in f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{random, with_same_bits};
use echat_kernels::simd::{self, LANES};

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
fn instruction_sets_change_no_bit() {
    let [x, y] = [1, 2].map(|seed| random(seed, &[1000]).to_vec1::<f32>().unwrap());
    let all = || {
        let mut results = Vec::new();
        simd::run(
            #[inline(always)]
            || {
                for len in (0..3 * LANES * 4 + 3).chain([1000]) {
                    let (x, y) = (&x[..len], &y[..len]);
                    results.extend([simd::sum(x), simd::dot(x, y), simd::max(x)]);
                    results.push(simd::sum_by2(x, y, |x, y| x.mul_add(y, 0.5)));
                }
                for &x in &x {
                    let (cdf, pdf) = simd::normal(8.0 * x);
                    results.extend([simd::exp(80.0 * x), simd::sigmoid(20.0 * x), cdf, pdf]);
                }
            },
        );
        results.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    with_same_bits(all);
}

#[test]
fn reductions_at_ragged_lengths() {
    for len in [0, 1, 15, 16, 17, 63, 64, 65, 100, 200] {
        let x: Vec<f32> = (0..len).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
        let y: Vec<f32> = (0..len).map(|i| (i * 5 % 11) as f32).collect();
        assert_eq!(simd::sum(&x), x.iter().sum::<f32>());
        assert_eq!(simd::dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>());
        assert_eq!(simd::sum_by(&x, |x| 2.0 * x), 2.0 * simd::sum(&x));
        assert_eq!(simd::sum_by2(&x, &y, |x, y| x * y), simd::dot(&x, &y));
        assert_eq!(simd::sum_by3(&x, &y, &y, |x, y, z| x * y + z), simd::dot(&x, &y) + simd::sum(&y));
        assert_eq!(simd::max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    }
}

/// The largest of `error(x)` over a fine grid of [-12, 12]; infinity if one is not a number.
fn worst(error: impl Fn(f32) -> f64) -> f64 {
    (-100_000..=100_000)
        .map(|i| error(12.0 * i as f32 / 100_000.0))
        .fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { worst.max(e) })
}

#[test]
fn sigmoid_is_within_its_stated_error() {
    let error = worst(|x| (f64::from(simd::sigmoid(x)) - 1.0 / (1.0 + (-f64::from(x)).exp())).abs());
    assert!(error <= 2e-7, "worst error {error:e}");
    assert!(simd::sigmoid(f32::NAN).is_nan());
    assert_eq!([simd::sigmoid(-1000.0), simd::sigmoid(1000.0)], [0.0, 1.0]);
}

#[test]
fn normal_is_within_its_stated_error() {
    let error = worst(|x| {
        let ((cdf, pdf), at) = (simd::normal(x), f64::from(x));
        let want = 0.5 * candle_core::cpu::erf::erfc_f64(-at / 2f64.sqrt());
        let density = (-0.5 * at * at).exp() / std::f64::consts::TAU.sqrt();
        (f64::from(cdf) - want).abs().max((f64::from(pdf) - density).abs())
    });
    assert!(error <= 3e-7, "worst error {error:e}");
    assert!(simd::normal(f32::NAN).0.is_nan() && simd::normal(f32::NAN).1.is_nan());
}

#[test]
fn bf16_conversions_are_those_of_half() {
    let ends = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-45];
    let ties =
        (0..4u32).flat_map(|odd| [0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits(0x3f80_0000 + (odd << 16) + low)));
    let spread = (0..1_000_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
    for x in ends.into_iter().chain(ties).chain(spread) {
        let (got, want) = (simd::to_bf16(x), half::bf16::from_f32(x));
        assert_eq!(got.to_bits(), want.to_bits(), "{x:e}");
        assert_eq!(simd::from_bf16(got).to_bits(), want.to_f32().to_bits(), "{x:e}");
    }
}
