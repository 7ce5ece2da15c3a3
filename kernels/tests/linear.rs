//! The dense layer against its definition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::*;
use echat_kernels::linear::{self, reference};

/// Rows, inputs, outputs: one row and column, none, ragged against every tile, more than one block of k, many pieces.
const SIZES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (0, 5, 7),
    (3, 0, 4),
    (1, 128, 64),
    (7, 33, 31),
    (13, 64, 65),
    (25, 257, 96),
    (100, 600, 10),
    (530, 48, 130),
    (1200, 10, 64),
    (2000, 70, 3),
];

struct Case {
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    grad: Tensor,
}

fn case(t: usize, i: usize, o: usize) -> Case {
    Case { x: random(1, &[t, i]), w: random(2, &[o, i]), bias: random(3, &[o]), grad: random(4, &[t, o]) }
}

fn all(c: &Case) -> [Tensor; 5] {
    [
        linear::forward(&c.x, &c.w, Some(&c.bias)).unwrap(),
        linear::forward(&c.x, &c.w, None).unwrap(),
        linear::backward_input(&c.grad, &c.w).unwrap(),
        linear::backward_weight(&c.grad, &c.x).unwrap(),
        linear::backward_bias(&c.grad).unwrap(),
    ]
}

fn all_references(c: &Case) -> [Vec<f64>; 5] {
    let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
    let (o, i) = c.w.dims2().unwrap();
    if i == 0 {
        let t = c.x.dim(0).unwrap();
        return [bias.repeat(t), vec![0.0; t * o], vec![], vec![], reference::backward_bias(&grad, o)];
    }
    [
        reference::forward(&x, &w, Some(&bias), i),
        reference::forward(&x, &w, None, i),
        reference::backward_input(&grad, &w, i, o),
        reference::backward_weight(&grad, &x, i, o),
        reference::backward_bias(&grad, o),
    ]
}

const NAMES: [&str; 5] = ["forward with bias", "forward", "backward_input", "backward_weight", "backward_bias"];

#[test]
fn agrees_with_the_reference() {
    for (t, i, o) in SIZES {
        let c = case(t, i, o);
        for ((got, want), name) in all(&c).iter().zip(all_references(&c)).zip(NAMES) {
            assert_close(got, &want, 1e-5, &format!("{name} [{t}, {i}] -> {o}"));
        }
    }
}

#[test]
fn bf16_storage_rounds_once() {
    let c = case(37, 80, 50);
    let c = Case { x: bf16(&c.x), w: bf16(&c.w), bias: bf16(&c.bias), grad: bf16(&c.grad) };
    let dtypes = [DType::BF16, DType::BF16, DType::BF16, DType::F32, DType::F32];
    for (((got, want), name), dtype) in all(&c).iter().zip(all_references(&c)).zip(NAMES).zip(dtypes) {
        assert_eq!(got.dtype(), dtype, "{name}");
        // Rounding to 8 bits of mantissa errs by at most 2^-9.
        assert_close(got, &want, if dtype == DType::BF16 { 2e-3 } else { 1e-5 }, name);
    }
}

#[test]
fn the_reference_has_the_gradients_it_says() {
    let (t, i, o) = (3, 4, 5);
    let c = case(t, i, o);
    let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
    let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
        reference::forward(x, w, Some(b), i).iter().zip(&grad).map(|(y, g)| y * g).sum()
    };
    let dx = finite_difference(|x| loss(x, &w, &bias), &x);
    let dw = finite_difference(|w| loss(&x, w, &bias), &w);
    let db = finite_difference(|b| loss(&x, &w, b), &bias);
    assert!(rel_l2(&reference::backward_input(&grad, &w, i, o), &dx) < 1e-8);
    assert!(rel_l2(&reference::backward_weight(&grad, &x, i, o), &dw) < 1e-8);
    assert!(rel_l2(&reference::backward_bias(&grad, o), &db) < 1e-8);
}

#[test]
fn threads_change_no_bit() {
    for (t, i, o) in [(530, 128, 130), (3000, 64, 96), (1, 700, 2000), (40, 1500, 900)] {
        let c = case(t, i, o);
        let one = at_threads(1, || all(&c)).map(|t| bits(&t));
        for n in 2..=3 {
            let many = at_threads(n, || all(&c)).map(|t| bits(&t));
            for ((one, many), name) in one.iter().zip(&many).zip(NAMES) {
                assert!(one == many, "{name} [{t}, {i}] -> {o} at {n} threads");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let c = case(500, 300, 70);
    let y = linear::forward(&c.x, &c.w, Some(&c.bias)).unwrap();
    let dx = linear::backward_input(&c.grad, &c.w).unwrap();
    for (from, len) in [(0, 1), (13, 1), (77, 200), (499, 1)] {
        let x = c.x.narrow(0, from, len).unwrap();
        let grad = c.grad.narrow(0, from, len).unwrap();
        assert_eq!(bits(&linear::forward(&x, &c.w, Some(&c.bias)).unwrap()), bits(&y.narrow(0, from, len).unwrap()));
        assert_eq!(bits(&linear::backward_input(&grad, &c.w).unwrap()), bits(&dx.narrow(0, from, len).unwrap()));
    }
}

#[test]
fn counts_weight_gradients_alone() {
    let c = case(4, 3, 2);
    let before = linear::weight_gradient_count();
    linear::forward(&c.x, &c.w, None).unwrap();
    linear::backward_weight(&c.grad, &c.x).unwrap();
    // Other tests of this process count too.
    assert!(linear::weight_gradient_count() > before);
}

#[test]
fn rejects_what_does_not_fit() {
    let c = case(4, 3, 2);
    let other = random(9, &[5, 5]);
    let error = linear::forward(&c.x, &other, None).unwrap_err().to_string();
    assert_eq!(error, "linear: w: expected shape [5, 3], got [5, 5]");
    assert!(linear::forward(&c.x, &c.w, Some(&other)).is_err());
    assert!(linear::forward(&c.bias, &c.w, None).is_err());
    assert!(linear::backward_input(&other, &c.w).is_err());
    assert!(linear::backward_weight(&c.grad, &other).is_err());
    assert!(linear::backward_bias(&c.bias).is_err());
    assert!(linear::forward(&c.x.to_dtype(DType::F64).unwrap(), &c.w, None).is_err());
    assert!(linear::forward(&random(1, &[3, 4]).t().unwrap(), &c.w, None).is_err(), "not contiguous");
}

#[cfg(feature = "emulate")]
emulated!(
    agrees_with_the_reference,
    bf16_storage_rounds_once,
    a_row_does_not_depend_on_the_others,
    rejects_what_does_not_fit
);
