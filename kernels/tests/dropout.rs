//! Dropout against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::SeqLens;
use echat_kernels::dropout::{add_dropout, apply, reference};
use echat_kernels::rng;

/// The streams of `n` sequences.
fn streams(n: usize) -> Vec<u64> {
    (0..n as u64).map(|i| rng::key(rng::site("dropout test"), i)).collect()
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for (lens, d, p) in
        [(vec![1], 1, 0.5), (vec![7, 0, 2], 5, 0.1), (vec![150, 201], 100, 0.9), (vec![3], 4, 0.0), (vec![], 4, 0.1)]
    {
        let (seq, streams) = (SeqLens::from_lens(lens.clone()), streams(lens.len()));
        let (x, residual) = (random(1, &[seq.total(), d]), random(2, &[seq.total(), d]));
        let want = reference::apply(&to_f64(&x), p, &seq, &streams);
        assert_close(&apply(&x, p, &seq, &streams).unwrap(), &want, 1e-6, "dropout");
        let want: Vec<f64> = want.iter().zip(to_f64(&residual)).map(|(x, r)| x + r).collect();
        assert_close(&add_dropout(&residual, &x, p, &seq, &streams).unwrap(), &want, 1e-6, "add_dropout");
    }
}

#[test]
fn drops_the_share_asked_for_and_keeps_the_mean() {
    let seq = SeqLens::from_lens([500]);
    let ones = random(1, &[500, 200]).ones_like().unwrap();
    let y = to_f64(&apply(&ones, 0.1, &seq, &streams(1)).unwrap());
    let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
    // Five standard deviations of the share of 100,000 draws.
    assert!((dropped - 0.1).abs() <= 5.0 * (0.1f64 * 0.9 / 1e5).sqrt(), "dropped {dropped}");
    assert!(y.iter().all(|y| *y == 0.0 || (y - 1.0 / 0.9).abs() <= 1e-6));
}

#[test]
fn a_sequence_is_masked_alike_alone_and_packed() {
    let (seq, streams) = (SeqLens::from_lens([3, 40, 5]), streams(3));
    let x = random(1, &[48, 16]);
    let packed = apply(&x, 0.3, &seq, &streams).unwrap().narrow(0, 3, 40).unwrap();
    let alone = apply(&x.narrow(0, 3, 40).unwrap(), 0.3, &SeqLens::from_lens([40]), &streams[1..2]).unwrap();
    assert_eq!(bits(&packed), bits(&alone));
    let other = apply(&x.narrow(0, 3, 40).unwrap(), 0.3, &SeqLens::from_lens([40]), &streams[..1]).unwrap();
    assert_ne!(bits(&other), bits(&alone));
}

#[test]
fn stores_bf16() {
    let (seq, streams) = (SeqLens::from_lens([4, 5]), streams(2));
    let (x, residual) = (bf16(&random(1, &[9, 40])), bf16(&random(2, &[9, 40])));
    let want = reference::apply(&to_f64(&x), 0.2, &seq, &streams);
    let y = apply(&x, 0.2, &seq, &streams).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_close(&y, &want, 3e-3, "dropout");
    let want: Vec<f64> = want.iter().zip(to_f64(&residual)).map(|(x, r)| x + r).collect();
    let y = add_dropout(&residual, &x, 0.2, &seq, &streams).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_close(&y, &want, 3e-3, "add_dropout");
}

#[test]
fn the_gradient_of_the_reference_is_the_reference_of_the_gradient() {
    let (seq, streams) = (SeqLens::from_lens([2, 3]), streams(2));
    let (x, g) = (to_f64(&random(1, &[5, 4])), to_f64(&random(2, &[5, 4])));
    let loss = |x: &[f64]| reference::apply(x, 0.4, &seq, &streams).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    assert!(rel_l2(&reference::apply(&g, 0.4, &seq, &streams), &finite_difference(loss, &x)) <= 1e-8);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (seq, streams, x) = (SeqLens::from_lens([300, 400]), streams(2), random(1, &[700, 65]));
    let run = |threads| {
        at_threads(threads, || {
            [bits(&apply(&x, 0.1, &seq, &streams).unwrap()), bits(&add_dropout(&x, &x, 0.1, &seq, &streams).unwrap())]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_and_probabilities_are_errors() {
    let (seq, x) = (SeqLens::from_lens([3, 2]), random(1, &[5, 4]));
    assert!(apply(&x, 0.1, &seq, &streams(1)).is_err());
    assert!(apply(&x, 0.1, &SeqLens::from_lens([4]), &streams(1)).is_err());
    assert!(add_dropout(&random(1, &[5, 3]), &x, 0.1, &seq, &streams(2)).is_err());
    for p in [1.0, -0.1, f32::NAN] {
        assert!(apply(&x, p, &seq, &streams(2)).is_err(), "{p}");
    }
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_drop_what_the_cpu_drops() {
    for (lens, d) in [(vec![1, 0, 0, 40, 7, 0], 24), (vec![0, 13], 67), (vec![5, 3], 2100), (vec![2; 33], 8)] {
        let (seq, streams) = (SeqLens::from_lens(lens.clone()), streams(lens.len()));
        let (x, residual) = (random(1, &[seq.total(), d]), random(2, &[seq.total(), d]));
        let shifted = random(3, &[seq.total() * d + 1]).narrow(0, 1, seq.total() * d).unwrap();
        let shifted = shifted.reshape((seq.total(), d)).unwrap();
        for x in [x.clone(), bf16(&x), shifted] {
            let residual = residual.to_dtype(x.dtype()).unwrap();
            let run =
                || (apply(&x, 0.3, &seq, &streams).unwrap(), add_dropout(&residual, &x, 0.3, &seq, &streams).unwrap());
            let (want, got) = (run(), echat_kernels::cuda::emulated(run));
            assert_eq!(bits(&got.0), bits(&want.0), "{lens:?}");
            assert_close(&got.1, &to_f64(&want.1), 1e-6, "add_dropout");
            assert_eq!((got.0.dtype(), got.1.dtype()), (x.dtype(), x.dtype()));
        }
    }
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    drops_the_share_asked_for_and_keeps_the_mean,
    a_sequence_is_masked_alike_alone_and_packed,
    stores_bf16,
    wrong_shapes_and_probabilities_are_errors
);
