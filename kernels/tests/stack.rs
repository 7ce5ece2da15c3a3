//! Frame stacking against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::SeqLens;
use echat_kernels::stack::{backward, forward, reference};

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for (lens, d, k) in
        [(vec![1], 1, 1), (vec![1], 3, 2), (vec![5, 0, 4, 1], 7, 2), (vec![50, 31], 16, 4), (vec![], 2, 3)]
    {
        let seq = SeqLens::from_lens(lens.clone());
        let x = random(1, &[seq.total(), d]);
        let (y, stacked) = forward(&x, &seq, k).unwrap();
        assert_eq!(stacked.lens().collect::<Vec<_>>(), lens.iter().map(|len| len.div_ceil(k)).collect::<Vec<_>>());
        assert_eq!(y.dims(), [stacked.total(), k * d]);
        assert_eq!(to_f64(&y), reference::forward(&to_f64(&x), &seq, d, k));
        let g = random(2, &[stacked.total(), k * d]);
        assert_eq!(to_f64(&backward(&g, &seq, k).unwrap()), reference::backward(&to_f64(&g), &seq, d, k));
    }
}

#[test]
fn stores_bf16() {
    let (seq, x) = (SeqLens::from_lens([3, 2]), bf16(&random(1, &[5, 4])));
    let (y, _) = forward(&x, &seq, 2).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    let back = backward(&y, &seq, 2).unwrap();
    assert_eq!(back.dtype(), candle_core::DType::BF16);
    assert_eq!(bits(&back), bits(&x));
}

#[test]
fn reference_gradient_is_finite_differences() {
    let (seq, x, g) = (SeqLens::from_lens([3, 2]), to_f64(&random(1, &[5, 4])), to_f64(&random(2, &[3, 8])));
    let loss = |x: &[f64]| reference::forward(x, &seq, 4, 2).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    assert!(rel_l2(&reference::backward(&g, &seq, 4, 2), &finite_difference(loss, &x)) <= 1e-8);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (seq, x) = (SeqLens::from_lens([301, 100]), random(1, &[401, 64]));
    let run = |threads| at_threads(threads, || bits(&forward(&x, &seq, 2).unwrap().0));
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let (seq, x) = (SeqLens::from_lens([3, 2]), random(1, &[5, 4]));
    assert!(forward(&x, &seq, 0).is_err());
    assert!(forward(&random(1, &[4, 4]), &seq, 2).is_err());
    assert!(backward(&random(1, &[3, 7]), &seq, 2).is_err());
    assert!(backward(&random(1, &[5, 8]), &seq, 2).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_rows_of_any_width_beginning_anywhere() {
    let cases =
        [(vec![0, 9, 0, 16, 1, 0], 40, 4, 0), (vec![7, 11], 67, 3, 0), (vec![5, 4], 2100, 2, 0), (vec![9], 8, 2, 3)];
    for (lens, d, k, skip) in cases {
        let seq = SeqLens::from_lens(lens);
        for narrow in [false, true] {
            let all = random(1, &[seq.total() * d + skip]);
            let all = if narrow { bf16(&all) } else { all };
            let x = all.narrow(0, skip, seq.total() * d).unwrap().reshape((seq.total(), d)).unwrap();
            let run = || {
                let y = forward(&x, &seq, k).unwrap().0;
                let g = (y.to_dtype(candle_core::DType::F32).unwrap() + 1.0).unwrap().to_dtype(x.dtype()).unwrap();
                [bits(&backward(&g, &seq, k).unwrap()), bits(&y)]
            };
            assert_eq!(echat_kernels::cuda::emulated(run), run());
        }
    }
}

#[cfg(feature = "emulate")]
emulated!(matches_the_reference_at_ragged_sizes, stores_bf16, wrong_shapes_are_errors);
