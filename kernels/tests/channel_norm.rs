//! Channel norm against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::SeqLens;
use echat_kernels::channel_norm::{backward, forward, reference};

const EPS: f64 = 1e-5;

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for (lens, c) in [(vec![1], 1), (vec![7], 3), (vec![5, 0, 1, 300, 17], 20), (vec![200, 90], 130), (vec![], 4)] {
        let seq = SeqLens::from_lens(lens);
        let shape = [seq.total(), c];
        let (x, w, b, g) = (random(1, &shape), random(2, &[c]), random(3, &[c]), random(4, &shape));
        let (y, stats) = forward(&x, &w, &b, &seq, EPS).unwrap();
        let (want_y, want_stats) = reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), &seq, EPS);
        assert_eq!(stats.dims(), [seq.count(), 2, c]);
        assert_close(&y, &want_y, 1e-6, "y");
        assert_close(&stats, &want_stats, 1e-6, "stats");
        let (dx, weights) = backward(&g, &x, &w, &stats, &seq, true).unwrap();
        let (dw, db) = weights.unwrap();
        let (want_dx, want_dw, want_db) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), &seq, EPS);
        assert_close(&dx, &want_dx, 3e-6, "dx");
        assert_close(&dw, &want_dw, 3e-6, "dw");
        assert_close(&db, &want_db, 3e-6, "db");
        let (again, none) = backward(&g, &x, &w, &stats, &seq, false).unwrap();
        assert!(none.is_none());
        assert_eq!(bits(&again), bits(&dx));
    }
}

#[test]
fn a_sequence_is_bitwise_the_same_alone_and_packed() {
    let seq = SeqLens::from_lens([130, 257, 64]);
    let (x, w, b) = (random(1, &[seq.total(), 70]), random(2, &[70]), random(3, &[70]));
    let (packed, _) = forward(&x, &w, &b, &seq, EPS).unwrap();
    let alone = x.narrow(0, 130, 257).unwrap();
    let (alone, _) = forward(&alone, &w, &b, &SeqLens::from_lens([257]), EPS).unwrap();
    assert_eq!(bits(&packed.narrow(0, 130, 257).unwrap()), bits(&alone));
}

#[test]
fn stores_bf16() {
    let seq = SeqLens::from_lens([9, 30]);
    let (x, g) = (bf16(&random(1, &[39, 12])), bf16(&random(4, &[39, 12])));
    let (w, b) = (bf16(&random(2, &[12])), bf16(&random(3, &[12])));
    let (y, stats) = forward(&x, &w, &b, &seq, EPS).unwrap();
    let (dx, weights) = backward(&g, &x, &w, &stats, &seq, true).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_close(&y, &reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), &seq, EPS).0, 3e-3, "y");
    let (want_dx, want_dw, want_db) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), &seq, EPS);
    let (dw, db) = weights.unwrap();
    assert_close(&dx, &want_dx, 3e-3, "dx");
    assert_close(&dw, &want_dw, 1e-5, "dw");
    assert_close(&db, &want_db, 1e-5, "db");
}

#[test]
fn reference_gradients_are_finite_differences() {
    let seq = SeqLens::from_lens([4, 0, 6]);
    let (x, g) = (to_f64(&random(1, &[10, 3])), to_f64(&random(4, &[10, 3])));
    let (w, b) = (to_f64(&random(2, &[3])), to_f64(&random(3, &[3])));
    let loss = |x: &[f64], w: &[f64], b: &[f64]| {
        reference::forward(x, w, b, &seq, EPS).0.iter().zip(&g).map(|(y, g)| y * g).sum::<f64>()
    };
    let (dx, dw, db) = reference::backward(&g, &x, &w, &seq, EPS);
    assert!(rel_l2(&dx, &finite_difference(|x| loss(x, &w, &b), &x)) <= 1e-7);
    assert!(rel_l2(&dw, &finite_difference(|w| loss(&x, w, &b), &w)) <= 1e-7);
    assert!(rel_l2(&db, &finite_difference(|b| loss(&x, &w, b), &b)) <= 1e-7);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let seq = SeqLens::from_lens([400, 1, 299]);
    let (x, g) = (random(1, &[700, 65]), random(4, &[700, 65]));
    let (w, b) = (random(2, &[65]), random(3, &[65]));
    let run = |threads| {
        at_threads(threads, || {
            let (y, stats) = forward(&x, &w, &b, &seq, EPS).unwrap();
            let (dx, weights) = backward(&g, &x, &w, &stats, &seq, true).unwrap();
            let (dw, db) = weights.unwrap();
            [bits(&y), bits(&stats), bits(&dx), bits(&dw), bits(&db)]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let (x, w) = (random(1, &[3, 5]), random(2, &[5]));
    let (seq, other) = (SeqLens::from_lens([3]), SeqLens::from_lens([4]));
    assert!(forward(&x, &w, &w, &other, EPS).is_err());
    assert!(forward(&x, &random(1, &[4]), &w, &seq, EPS).is_err());
    assert!(forward(&x, &w, &random(1, &[4]), &seq, EPS).is_err());
    let (_, stats) = forward(&x, &w, &w, &seq, EPS).unwrap();
    assert!(backward(&random(1, &[3, 4]), &x, &w, &stats, &seq, true).is_err());
    assert!(backward(&x, &x, &w, &random(1, &[1, 2]), &seq, true).is_err());
    assert!(backward(&x, &x, &w, &stats, &other, true).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    a_sequence_is_bitwise_the_same_alone_and_packed,
    stores_bf16,
    wrong_shapes_are_errors
);
