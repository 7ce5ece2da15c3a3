//! The positional convolution and its weight norm against their definitions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::Tensor;
use common::*;
use echat_kernels::pos_conv::{self, Sizes, reference};
use echat_kernels::{SeqLens, weight_norm};

struct Case {
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    grad: Tensor,
    seq: SeqLens,
    s: Sizes,
}

fn case(lens: &[usize], d: usize, groups: usize, kernel: usize) -> Case {
    let seq = SeqLens::from_lens(lens.iter().copied());
    Case {
        x: random(1, &[seq.total(), d]),
        w: random(2, &[d, d / groups, kernel]),
        bias: random(3, &[d]),
        grad: random(4, &[seq.total(), d]),
        seq,
        s: Sizes { d, groups, kernel },
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(&[0, 1, 5, 40, 0, 17], 12, 3, 8),
        case(&[9, 1, 2], 6, 1, 5),
        case(&[3, 1], 4, 4, 1),
        case(&[150, 77], 64, 16, 128),
        case(&[], 4, 2, 4),
    ]
}

fn all(c: &Case) -> [Tensor; 3] {
    [
        pos_conv::forward(&c.x, &c.w, &c.bias, &c.seq, c.s.groups).unwrap(),
        pos_conv::backward_input(&c.grad, &c.w, &c.seq, c.s.groups).unwrap(),
        pos_conv::backward_weight(&c.grad, &c.x, &c.seq, c.s.groups, c.s.kernel).unwrap(),
    ]
}

fn references(c: &Case) -> [Vec<f64>; 3] {
    let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
    [
        reference::forward(&x, &w, &bias, &c.seq, c.s),
        reference::backward_input(&grad, &w, &c.seq, c.s),
        reference::backward_weight(&grad, &x, &c.seq, c.s),
    ]
}

#[test]
fn agrees_with_the_definition() {
    for c in cases() {
        for (got, want) in all(&c).iter().zip(references(&c)) {
            assert_close(got, &want, 1e-5, &format!("{:?}", c.s));
        }
    }
}

#[test]
fn the_definition_agrees_with_finite_differences() {
    let c = case(&[3, 0, 5], 4, 2, 4);
    let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
    let dot = |y: Vec<f64>| y.iter().zip(&grad).map(|(a, b)| a * b).sum::<f64>();
    let dx = finite_difference(|x| dot(reference::forward(x, &w, &bias, &c.seq, c.s)), &x);
    assert!(rel_l2(&reference::backward_input(&grad, &w, &c.seq, c.s), &dx) <= 1e-6);
    let dw = finite_difference(|w| dot(reference::forward(&x, w, &bias, &c.seq, c.s)), &w);
    assert!(rel_l2(&reference::backward_weight(&grad, &x, &c.seq, c.s), &dw) <= 1e-6);
}

#[test]
fn no_bit_depends_on_the_threads() {
    for c in cases() {
        let one = at_threads(1, || all(&c)).map(|t| bits(&t));
        for n in [2, 3] {
            assert_eq!(at_threads(n, || all(&c)).map(|t| bits(&t)), one, "{:?} at {n} threads", c.s);
        }
    }
}

#[test]
fn a_sequence_does_not_feel_its_neighbours() {
    let c = case(&[7, 30, 4], 8, 2, 6);
    let packed = bits(&all(&c)[0]);
    let range = c.seq.range(1);
    let alone = SeqLens::from_lens([range.len()]);
    let x = c.x.narrow(0, range.start, range.len()).unwrap();
    let y = pos_conv::forward(&x, &c.w, &c.bias, &alone, 2).unwrap();
    assert_eq!(bits(&y), packed[range.start * 8..range.end * 8]);
}

#[test]
fn bf16_storage_rounds_once() {
    let c = case(&[20, 9], 16, 4, 8);
    let (x, w, bias) = (bf16(&c.x), bf16(&c.w), bf16(&c.bias));
    let want = reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&bias), &c.seq, c.s);
    assert_close(&pos_conv::forward(&x, &w, &bias, &c.seq, 4).unwrap(), &want, 4e-3, "bf16");
}

#[test]
fn wrong_shapes_are_errors() {
    let c = case(&[5], 8, 2, 4);
    assert!(pos_conv::forward(&c.x, &c.w, &c.bias, &c.seq, 3).is_err());
    assert!(pos_conv::forward(&c.x, &c.w, &c.bias, &SeqLens::from_lens([4]), 2).is_err());
    assert!(pos_conv::forward(&c.x, &random(1, &[8, 8, 4]), &c.bias, &c.seq, 2).is_err());
    assert!(pos_conv::backward_weight(&c.grad, &c.x, &c.seq, 0, 4).is_err());
}

#[test]
fn weight_norm_agrees_with_its_definition_and_finite_differences() {
    for shape in [[6, 3, 8], [1, 1, 1], [64, 4, 128]] {
        let (v, g, grad) = (random(1, &shape), random(2, &[1, 1, shape[2]]), random(3, &shape));
        let [rv, rg, rgrad] = [&v, &g, &grad].map(to_f64);
        assert_close(
            &weight_norm::forward(&v, &g).unwrap(),
            &weight_norm::reference::forward(&rv, &rg),
            1e-5,
            "weight_norm",
        );
        let (dv, dg) = weight_norm::backward(&grad, &v, &g).unwrap();
        let (want_dv, want_dg) = weight_norm::reference::backward(&rgrad, &rv, &rg);
        if shape[0] > 1 {
            // With one element per tap the direction cannot change: dv is rounding around zero.
            assert_close(&dv, &want_dv, 1e-5, "dv");
        }
        assert_close(&dg, &want_dg, 1e-5, "dg");
    }
    let (v, g, grad) = (random(1, &[3, 2, 4]), random(2, &[1, 1, 4]), random(3, &[3, 2, 4]));
    let [v, g, grad] = [&v, &g, &grad].map(to_f64);
    let dot = |w: Vec<f64>| w.iter().zip(&grad).map(|(a, b)| a * b).sum::<f64>();
    let (dv, dg) = weight_norm::reference::backward(&grad, &v, &g);
    assert!(rel_l2(&dv, &finite_difference(|v| dot(weight_norm::reference::forward(v, &g)), &v)) <= 1e-6);
    assert!(rel_l2(&dg, &finite_difference(|g| dot(weight_norm::reference::forward(&v, g)), &g)) <= 1e-6);
    assert!(weight_norm::forward(&random(1, &[3, 2, 4]), &random(2, &[4])).is_err());
}
