//! Weight normalisation against its definition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::*;
use echat_kernels::weight_norm::{self, reference};

const SHAPES: [[usize; 3]; 6] = [[1, 1, 1], [3, 2, 5], [128, 8, 128], [64, 4, 31], [7, 60, 3], [300, 1, 1]];

fn case(shape: [usize; 3]) -> [Tensor; 3] {
    [random(1, &shape), random(2, &shape), random(3, &[1, 1, shape[2]])]
}

#[test]
fn agrees_with_the_reference() {
    for shape in SHAPES {
        let [grad, v, g] = case(shape);
        let [grad_, v_, g_] = [&grad, &v, &g].map(to_f64);
        let (want_dv, want_dg) = reference::backward(&grad_, &v_, &g_);
        let w = weight_norm::forward(&v, &g).unwrap();
        let (dv, dg) = weight_norm::backward(&grad, &v, &g).unwrap();
        assert_eq!((w.dims(), dv.dims(), dg.dims()), (v.dims(), v.dims(), g.dims()));
        assert_close(&w, &reference::forward(&v_, &g_), 1e-5, "forward");
        // One number has no direction to change: its gradient is 0 but for rounding.
        if shape[0] * shape[1] > 1 {
            assert_close(&dv, &want_dv, 1e-5, "dv");
        } else {
            assert!(to_f64(&dv).iter().all(|x| x.abs() <= 1e-6), "dv of one number");
        }
        assert_close(&dg, &want_dg, 1e-5, "dg");
    }
}

#[test]
fn no_weights_are_no_work() {
    let v = random(1, &[0, 4, 3]);
    let g = random(2, &[1, 1, 3]);
    assert_eq!(weight_norm::forward(&v, &g).unwrap().dims(), [0, 4, 3]);
    let (dv, dg) = weight_norm::backward(&v, &v, &g).unwrap();
    assert_eq!((dv.dims(), to_f64(&dg)), (&[0, 4, 3][..], vec![0.0; 3]));
}

#[test]
fn bf16_storage_rounds_once() {
    let [grad, v, g] = case([16, 6, 9]).map(|t| bf16(&t));
    let [grad_, v_, g_] = [&grad, &v, &g].map(to_f64);
    let w = weight_norm::forward(&v, &g).unwrap();
    let (dv, dg) = weight_norm::backward(&grad, &v, &g).unwrap();
    assert_eq!([w.dtype(), dv.dtype(), dg.dtype()], [DType::BF16, DType::F32, DType::F32]);
    // Rounding to 8 bits of mantissa errs by at most 2^-9.
    assert_close(&w, &reference::forward(&v_, &g_), 2e-3, "forward");
    let (want_dv, want_dg) = reference::backward(&grad_, &v_, &g_);
    assert_close(&dv, &want_dv, 1e-5, "dv");
    assert_close(&dg, &want_dg, 1e-5, "dg");
}

#[test]
fn the_reference_has_the_gradients_it_says() {
    let [grad, v, g] = case([3, 2, 4]).map(|t| to_f64(&t));
    let loss =
        |v: &[f64], g: &[f64]| -> f64 { reference::forward(v, g).iter().zip(&grad).map(|(w, grad)| w * grad).sum() };
    let (dv, dg) = reference::backward(&grad, &v, &g);
    assert!(rel_l2(&dv, &finite_difference(|v| loss(v, &g), &v)) < 1e-8);
    assert!(rel_l2(&dg, &finite_difference(|g| loss(&v, g), &g)) < 1e-8);
}

#[test]
fn each_tap_has_the_norm_it_is_given() {
    let [_, v, g] = case([20, 3, 4]);
    let w = to_f64(&weight_norm::forward(&v, &g).unwrap());
    for (k, g) in to_f64(&g).iter().enumerate() {
        let norm = w.iter().skip(k).step_by(4).map(|w| w * w).sum::<f64>().sqrt();
        assert!((norm - g.abs()).abs() < 1e-6);
    }
}

#[test]
fn threads_change_no_bit() {
    let [grad, v, g] = case([256, 16, 128]);
    let run = || {
        let (dv, dg) = weight_norm::backward(&grad, &v, &g).unwrap();
        [weight_norm::forward(&v, &g).unwrap(), dv, dg].map(|t| bits(&t))
    };
    let one = at_threads(1, run);
    for n in 2..=3 {
        assert!(at_threads(n, run) == one, "{n} threads");
    }
}

#[test]
fn rejects_what_does_not_fit() {
    let [grad, v, g] = case([3, 2, 5]);
    let other = random(9, &[3, 5]);
    assert!(weight_norm::forward(&other, &g).is_err());
    let error = weight_norm::forward(&v, &other).unwrap_err().to_string();
    assert_eq!(error, "weight_norm: g: expected shape [1, 1, 5], got [3, 5]");
    assert!(weight_norm::backward(&other, &v, &g).is_err());
    assert!(weight_norm::backward(&grad, &v, &other).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    agrees_with_the_reference,
    no_weights_are_no_work,
    bf16_storage_rounds_once,
    each_tap_has_the_norm_it_is_given,
    rejects_what_does_not_fit
);
