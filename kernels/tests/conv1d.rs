//! The strided convolution against its definition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::*;
use echat_kernels::SeqLens;
use echat_kernels::conv1d::{self, Sizes, reference};

const NAMES: [&str; 4] = ["forward with bias", "forward", "backward_input", "backward_weight"];

struct Case {
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    grad: Tensor,
    seq: SeqLens,
    s: Sizes,
}

fn case(lens: &[usize], s: Sizes) -> Case {
    let seq = SeqLens::from_lens(lens.iter().copied());
    let rows = conv1d::out_seqlens(&seq, s.kernel, s.stride).total();
    Case {
        x: random(1, &[seq.total(), s.c_in]),
        w: random(2, &[s.c_out, s.kernel * s.c_in]),
        bias: random(3, &[s.c_out]),
        grad: random(4, &[rows, s.c_out]),
        seq,
        s,
    }
}

fn sizes(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Sizes {
    Sizes { c_in, c_out, kernel, stride }
}

/// HuBERT's shapes in small; kernels longer than, equal to and shorter than their stride; sequences empty, too short,
/// exactly one window, and with rows left over.
fn cases() -> Vec<Case> {
    let ragged = [0, 1, 2, 3, 4, 5, 9, 10, 11, 14, 15, 40, 333, 0];
    let mut cases = Vec::new();
    for s in [
        sizes(1, 64, 10, 5),
        sizes(64, 64, 3, 2),
        sizes(64, 33, 2, 2),
        sizes(5, 7, 3, 1),
        sizes(3, 2, 1, 1),
        sizes(4, 3, 2, 3),
        sizes(3, 5, 7, 3),
    ] {
        cases.push(case(&ragged, s));
    }
    cases.push(case(&[], sizes(3, 2, 3, 2)));
    cases.push(case(&[2, 0, 1], sizes(3, 2, 3, 2)));
    cases.push(case(&[1500, 700], sizes(64, 64, 3, 2)));
    cases
}

fn all(c: &Case) -> [Tensor; 4] {
    let (kernel, stride) = (c.s.kernel, c.s.stride);
    let (y, out) = conv1d::forward(&c.x, &c.w, Some(&c.bias), &c.seq, kernel, stride).unwrap();
    assert_eq!(out, conv1d::out_seqlens(&c.seq, kernel, stride));
    [
        y,
        conv1d::forward(&c.x, &c.w, None, &c.seq, kernel, stride).unwrap().0,
        conv1d::backward_input(&c.grad, &c.w, &c.seq, kernel, stride).unwrap(),
        conv1d::backward_weight(&c.grad, &c.x, &c.seq, kernel, stride).unwrap(),
    ]
}

fn all_references(c: &Case) -> [Vec<f64>; 4] {
    let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
    [
        reference::forward(&x, &w, Some(&bias), &c.seq, c.s),
        reference::forward(&x, &w, None, &c.seq, c.s),
        reference::backward_input(&grad, &w, &c.seq, c.s),
        reference::backward_weight(&grad, &x, &c.seq, c.s),
    ]
}

#[test]
fn agrees_with_the_reference() {
    for c in cases() {
        for ((got, want), name) in all(&c).iter().zip(all_references(&c)).zip(NAMES) {
            assert_close(got, &want, 1e-5, &format!("{name} {:?} {:?}", c.s, c.seq));
        }
    }
}

#[test]
fn bf16_storage_rounds_once() {
    let c = case(&[40, 0, 77], sizes(24, 32, 3, 2));
    let c = Case { x: bf16(&c.x), w: bf16(&c.w), bias: bf16(&c.bias), grad: bf16(&c.grad), ..c };
    let dtypes = [DType::BF16, DType::BF16, DType::BF16, DType::F32];
    for (((got, want), name), dtype) in all(&c).iter().zip(all_references(&c)).zip(NAMES).zip(dtypes) {
        assert_eq!(got.dtype(), dtype, "{name}");
        // Rounding to 8 bits of mantissa errs by at most 2^-9.
        assert_close(got, &want, if dtype == DType::BF16 { 2e-3 } else { 1e-5 }, name);
    }
}

#[test]
fn the_reference_has_the_gradients_it_says() {
    for s in [sizes(2, 3, 3, 2), sizes(2, 2, 4, 1), sizes(1, 2, 2, 3)] {
        let c = case(&[5, 0, 1, 8], s);
        let [x, w, grad] = [&c.x, &c.w, &c.grad].map(to_f64);
        let loss = |x: &[f64], w: &[f64]| -> f64 {
            reference::forward(x, w, None, &c.seq, s).iter().zip(&grad).map(|(y, g)| y * g).sum()
        };
        let dx = finite_difference(|x| loss(x, &w), &x);
        let dw = finite_difference(|w| loss(&x, w), &w);
        assert!(rel_l2(&reference::backward_input(&grad, &w, &c.seq, s), &dx) < 1e-8);
        assert!(rel_l2(&reference::backward_weight(&grad, &x, &c.seq, s), &dw) < 1e-8);
    }
}

#[test]
fn threads_change_no_bit() {
    for c in [case(&[900, 30, 1, 2000], sizes(64, 64, 3, 2)), case(&[3000, 100], sizes(1, 64, 10, 5))] {
        let one = at_threads(1, || all(&c)).map(|t| bits(&t));
        for n in 2..=3 {
            let many = at_threads(n, || all(&c)).map(|t| bits(&t));
            for ((one, many), name) in one.iter().zip(&many).zip(NAMES) {
                assert!(one == many, "{name} {:?} at {n} threads", c.s);
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    let s = sizes(64, 48, 3, 2);
    let c = case(&[300, 77, 1, 500], s);
    let out = conv1d::out_seqlens(&c.seq, s.kernel, s.stride);
    let [y, _, dx, _] = all(&c);
    for i in 0..c.seq.count() {
        let (rows, out) = (c.seq.range(i), out.range(i));
        let alone = SeqLens::from_lens([rows.len()]);
        let x = c.x.narrow(0, rows.start, rows.len()).unwrap();
        let grad = c.grad.narrow(0, out.start, out.len()).unwrap();
        let (y1, _) = conv1d::forward(&x, &c.w, Some(&c.bias), &alone, s.kernel, s.stride).unwrap();
        let dx1 = conv1d::backward_input(&grad, &c.w, &alone, s.kernel, s.stride).unwrap();
        assert_eq!(bits(&y1), bits(&y.narrow(0, out.start, out.len()).unwrap()));
        assert_eq!(bits(&dx1), bits(&dx.narrow(0, rows.start, rows.len()).unwrap()));
    }
}

#[test]
fn lengths_follow_the_formula() {
    let seq = SeqLens::from_lens([0, 9, 10, 14, 15, 400]);
    let out = conv1d::out_seqlens(&seq, 10, 5);
    assert_eq!(out.lens().collect::<Vec<_>>(), [0, 0, 1, 1, 2, 79]);
}

#[test]
fn rejects_what_does_not_fit() {
    let c = case(&[9, 4], sizes(4, 3, 2, 2));
    let short = SeqLens::from_lens([9]);
    let other = random(9, &[5, 5]);
    let error = conv1d::forward(&c.x, &c.w, None, &short, 2, 2).unwrap_err().to_string();
    assert_eq!(error, "conv1d: x: expected shape [9, 4], got [13, 4]");
    assert!(conv1d::forward(&c.x, &other, None, &c.seq, 2, 2).is_err());
    assert!(conv1d::forward(&c.x, &c.w, Some(&other), &c.seq, 2, 2).is_err());
    assert!(conv1d::forward(&c.x, &c.w, None, &c.seq, 0, 2).is_err());
    assert!(conv1d::forward(&c.x, &c.w, None, &c.seq, 2, 0).is_err());
    assert!(conv1d::backward_input(&other, &c.w, &c.seq, 2, 2).is_err());
    assert!(conv1d::backward_input(&c.grad, &c.w, &c.seq, 0, 2).is_err());
    assert!(conv1d::backward_input(&c.grad, &c.w, &c.seq, 3, 2).is_err(), "8 numbers are no window of 3 rows");
    assert!(conv1d::backward_weight(&c.grad, &other, &c.seq, 2, 2).is_err());
    assert!(conv1d::backward_weight(&other, &c.x, &c.seq, 2, 2).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    agrees_with_the_reference,
    bf16_storage_rounds_once,
    a_sequence_does_not_depend_on_its_neighbours,
    rejects_what_does_not_fit
);
