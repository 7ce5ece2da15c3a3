//! RMSNorm against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::elementwise::add;
use echat_kernels::rms_norm::{backward, backward_added, forward, forward_added, reference};

const EPS: f64 = 1e-6;

#[test]
fn matches_the_reference_at_ragged_sizes() {
    // A row of one number is all but constant (its gradient cancels) unless eps counts.
    let ragged = [vec![1, 7], vec![3, 16], vec![5, 3, 33], vec![300, 100], vec![0, 4]].map(|shape| (shape, EPS));
    for (shape, eps) in ragged.into_iter().chain([(vec![1, 1], 0.5), (vec![4, 1], 0.5)]) {
        let d = shape[shape.len() - 1];
        let (x, w, g) = (random(1, &shape), random(2, &[d]), random(3, &shape));
        let (y, rstd) = forward(&x, &w, eps).unwrap();
        let (want_y, want_rstd) = reference::forward(&to_f64(&x), &to_f64(&w), eps);
        assert_close(&y, &want_y, 1e-6, "y");
        assert_close(&rstd, &want_rstd, 1e-6, "rstd");
        assert_eq!(y.dims(), x.dims());
        let (dx, dw) = backward(&g, &x, &w, &rstd, true).unwrap();
        let (want_dx, want_dw) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), eps);
        assert_close(&dx, &want_dx, 2e-6, "dx");
        assert_close(&dw.unwrap(), &want_dw, 2e-6, "dw");
        let (again, none) = backward(&g, &x, &w, &rstd, false).unwrap();
        assert!(none.is_none());
        assert_eq!(bits(&again), bits(&dx));
    }
}

#[test]
fn stores_bf16() {
    let (x, w, g) = (bf16(&random(1, &[9, 40])), bf16(&random(2, &[40])), bf16(&random(3, &[9, 40])));
    let (y, rstd) = forward(&x, &w, EPS).unwrap();
    let (dx, dw) = backward(&g, &x, &w, &rstd, true).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_eq!(dx.dtype(), candle_core::DType::BF16);
    assert_close(&y, &reference::forward(&to_f64(&x), &to_f64(&w), EPS).0, 3e-3, "y");
    let (want_dx, want_dw) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), EPS);
    assert_close(&dx, &want_dx, 3e-3, "dx");
    assert_close(&dw.unwrap(), &want_dw, 1e-5, "dw");
}

#[test]
fn reference_gradients_are_finite_differences() {
    let (x, w, g) = (to_f64(&random(1, &[3, 5])), to_f64(&random(2, &[5])), to_f64(&random(3, &[3, 5])));
    let loss = |x: &[f64], w: &[f64]| reference::forward(x, w, EPS).0.iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    let (dx, dw) = reference::backward(&g, &x, &w, EPS);
    assert!(rel_l2(&dx, &finite_difference(|x| loss(x, &w), &x)) <= 1e-8);
    assert!(rel_l2(&dw, &finite_difference(|w| loss(&x, w), &w)) <= 1e-8);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (x, w, g) = (random(1, &[700, 65]), random(2, &[65]), random(3, &[700, 65]));
    let run = |threads| {
        at_threads(threads, || {
            let (y, rstd) = forward(&x, &w, EPS).unwrap();
            let (dx, dw) = backward(&g, &x, &w, &rstd, true).unwrap();
            [bits(&y), bits(&rstd), bits(&dx), bits(&dw.unwrap())]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let (x, w) = (random(1, &[3, 5]), random(2, &[5]));
    assert!(forward(&x, &random(1, &[4]), EPS).is_err());
    assert!(forward(&random(1, &[]), &w, EPS).is_err());
    assert!(forward(&x.t().unwrap(), &random(1, &[3]), EPS).is_err());
    let (_, rstd) = forward(&x, &w, EPS).unwrap();
    assert!(backward(&random(1, &[3, 4]), &x, &w, &rstd, true).is_err());
    assert!(backward(&x, &x, &w, &random(1, &[2]), true).is_err());
    assert!(backward(&x, &x, &random(1, &[1]), &rstd, true).is_err());
}

#[test]
fn a_nan_is_not_hidden() {
    let x = (random(1, &[2, 20]) * f64::NAN).unwrap();
    let (y, _) = forward(&x, &random(2, &[20]), EPS).unwrap();
    assert!(to_f64(&y).iter().all(|y| y.is_nan()));
}

/// Packs and not, several of them a thread, rows that share a block.
const WIDTHS: [[usize; 2]; 6] = [[5, 1024], [3, 1031], [2, 4100], [700, 24], [9, 7], [0, 8]];

#[test]
fn a_residual_is_added_in_the_same_pass() {
    for narrow in [false, true] {
        let stored = |t: candle_core::Tensor| if narrow { bf16(&t) } else { t };
        let bound = if narrow { 4e-3 } else { 3e-6 };
        for shape in WIDTHS {
            let [x, branch, g, carried] = [1, 2, 3, 4].map(|seed| stored(random(seed, &shape)));
            let w = stored(random(5, &[shape[1]]));
            let (sum, y, rstd) = forward_added(&x, &branch, &w, EPS).unwrap();
            assert_eq!(bits(&sum), bits(&add(&x, &branch).unwrap()));
            let (same_y, same_rstd) = forward(&sum, &w, EPS).unwrap();
            assert_eq!((bits(&y), bits(&rstd)), (bits(&same_y), bits(&same_rstd)));
            let (dx, dw) = backward_added(&g, Some(&carried), &sum, &w, &rstd, true).unwrap();
            let (mut want, want_dw) = reference::backward(&to_f64(&g), &to_f64(&sum), &to_f64(&w), EPS);
            want.iter_mut().zip(to_f64(&carried)).for_each(|(dx, carried)| *dx += carried);
            assert_close(&dx, &want, bound, "dx");
            assert_close(&dw.unwrap(), &want_dw, bound, "dw");
            let (without, _) = backward_added(&g, None, &sum, &w, &rstd, false).unwrap();
            assert_eq!(bits(&without), bits(&backward(&g, &sum, &w, &rstd, false).unwrap().0));
        }
    }
    let (x, w) = (random(1, &[3, 5]), random(2, &[5]));
    assert!(forward_added(&x, &random(1, &[3, 4]), &w, EPS).is_err());
    let (_, rstd) = forward(&x, &w, EPS).unwrap();
    assert!(backward_added(&x, Some(&random(1, &[2, 5])), &x, &w, &rstd, false).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    a_residual_is_added_in_the_same_pass,
    matches_the_reference_at_ragged_sizes,
    stores_bf16,
    wrong_shapes_are_errors,
    a_nan_is_not_hidden
);
