//! The grouped positional convolution against its definition.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::*;
use echat_kernels::SeqLens;
use echat_kernels::pos_conv::{self, Sizes, reference};

const NAMES: [&str; 3] = ["forward", "backward_input", "backward_weight"];

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
    let s = Sizes { d, groups, kernel };
    Case {
        x: random(1, &[seq.total(), d]),
        w: random(2, &[d, s.width(), kernel]),
        bias: random(3, &[d]),
        grad: random(4, &[seq.total(), d]),
        seq,
        s,
    }
}

fn all(c: &Case) -> [Tensor; 3] {
    [
        pos_conv::forward(&c.x, &c.w, &c.bias, &c.seq, c.s.groups).unwrap(),
        pos_conv::backward_input(&c.grad, &c.w, &c.seq, c.s.groups).unwrap(),
        pos_conv::backward_weight(&c.grad, &c.x, &c.seq, c.s.groups, c.s.kernel).unwrap(),
    ]
}

fn all_references(c: &Case) -> [Vec<f64>; 3] {
    let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
    [
        reference::forward(&x, &w, &bias, &c.seq, c.s),
        reference::backward_input(&grad, &w, &c.seq, c.s),
        reference::backward_weight(&grad, &x, &c.seq, c.s),
    ]
}

#[test]
fn agrees_with_the_reference() {
    let ragged = [1, 0, 2, 5, 33, 150, 0];
    let cases = [
        case(&ragged, 128, 16, 128),
        case(&ragged, 64, 16, 128),
        case(&ragged, 12, 3, 5),
        case(&ragged, 6, 1, 4),
        case(&ragged, 5, 5, 1),
        case(&ragged, 66, 2, 2),
        case(&[200, 3], 96, 1, 9),
        case(&[], 8, 2, 3),
        case(&[0, 0], 8, 2, 3),
    ];
    for c in cases {
        for ((got, want), name) in all(&c).iter().zip(all_references(&c)).zip(NAMES) {
            assert_close(got, &want, 1e-5, &format!("{name} {:?}", c.s));
        }
    }
}

#[test]
fn bf16_storage_rounds_once() {
    let c = case(&[40, 0, 77], 32, 4, 16);
    let c = Case { x: bf16(&c.x), w: bf16(&c.w), bias: bf16(&c.bias), grad: bf16(&c.grad), ..c };
    let dtypes = [DType::BF16, DType::BF16, DType::F32];
    for (((got, want), name), dtype) in all(&c).iter().zip(all_references(&c)).zip(NAMES).zip(dtypes) {
        assert_eq!(got.dtype(), dtype, "{name}");
        // Rounding to 8 bits of mantissa errs by at most 2^-9.
        assert_close(got, &want, if dtype == DType::BF16 { 2e-3 } else { 1e-5 }, name);
    }
}

#[test]
fn the_reference_has_the_gradients_it_says() {
    for kernel in [1, 4, 5] {
        let c = case(&[3, 0, 1, 6], 4, 2, kernel);
        let [x, w, bias, grad] = [&c.x, &c.w, &c.bias, &c.grad].map(to_f64);
        let loss = |x: &[f64], w: &[f64]| -> f64 {
            reference::forward(x, w, &bias, &c.seq, c.s).iter().zip(&grad).map(|(y, g)| y * g).sum()
        };
        let dx = finite_difference(|x| loss(x, &w), &x);
        let dw = finite_difference(|w| loss(&x, w), &w);
        assert!(rel_l2(&reference::backward_input(&grad, &w, &c.seq, c.s), &dx) < 1e-8);
        assert!(rel_l2(&reference::backward_weight(&grad, &x, &c.seq, c.s), &dw) < 1e-8);
    }
}

/// torch.nn.functional.conv1d(x, w, bias, padding=2, groups=1)[:, :, :-1] of x = 1..4, w = [1, 10, 100, 1000], bias 0.5.
#[test]
fn an_even_kernel_drops_the_last_row() {
    let x = Tensor::new(&[[1f32], [2.], [3.], [4.]], &candle_core::Device::Cpu).unwrap();
    let w = Tensor::new(&[[[1f32, 10., 100., 1000.]]], &candle_core::Device::Cpu).unwrap();
    let bias = Tensor::new(&[0.5f32], &candle_core::Device::Cpu).unwrap();
    let y = pos_conv::forward(&x, &w, &bias, &SeqLens::from_lens([4]), 1).unwrap();
    assert_eq!(to_f64(&y), [2100.5, 3210.5, 4321.5, 432.5]);
}

#[test]
fn threads_change_no_bit() {
    let c = case(&[300, 1, 77, 500], 128, 16, 128);
    let one = at_threads(1, || all(&c)).map(|t| bits(&t));
    for n in 2..=3 {
        let many = at_threads(n, || all(&c)).map(|t| bits(&t));
        for ((one, many), name) in one.iter().zip(&many).zip(NAMES) {
            assert!(one == many, "{name} at {n} threads");
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    let c = case(&[100, 1, 77, 250], 64, 8, 31);
    let [y, dx, _] = all(&c);
    for range in c.seq.ranges() {
        let alone = SeqLens::from_lens([range.len()]);
        let part = |t: &Tensor| t.narrow(0, range.start, range.len()).unwrap();
        let y1 = pos_conv::forward(&part(&c.x), &c.w, &c.bias, &alone, c.s.groups).unwrap();
        let dx1 = pos_conv::backward_input(&part(&c.grad), &c.w, &alone, c.s.groups).unwrap();
        assert_eq!(bits(&y1), bits(&part(&y)));
        assert_eq!(bits(&dx1), bits(&part(&dx)));
    }
}

#[test]
fn rejects_what_does_not_fit() {
    let c = case(&[9, 4], 6, 2, 3);
    let short = SeqLens::from_lens([9]);
    let other = random(9, &[5, 5]);
    let error = pos_conv::forward(&c.x, &c.w, &c.bias, &c.seq, 4).unwrap_err().to_string();
    assert_eq!(error, "pos_conv: 4 groups do not divide 6 channels");
    assert!(pos_conv::forward(&c.x, &c.w, &c.bias, &c.seq, 0).is_err());
    assert!(pos_conv::forward(&c.x, &c.w, &c.bias, &c.seq, 3).is_err());
    assert!(pos_conv::forward(&c.x, &c.w, &c.bias, &short, 2).is_err());
    assert!(pos_conv::forward(&c.x, &c.w, &other, &c.seq, 2).is_err());
    assert!(pos_conv::forward(&c.x, &other, &c.bias, &c.seq, 2).is_err());
    assert!(pos_conv::backward_input(&other, &c.w, &c.seq, 2).is_err());
    assert!(pos_conv::backward_weight(&c.grad, &other, &c.seq, 2, 3).is_err());
    assert!(pos_conv::backward_weight(&c.grad, &c.x, &c.seq, 2, 0).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    agrees_with_the_reference,
    bf16_storage_rounds_once,
    an_even_kernel_drops_the_last_row,
    a_sequence_does_not_depend_on_its_neighbours,
    rejects_what_does_not_fit
);
