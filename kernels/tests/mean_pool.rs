//! The packed mean against its f64 definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::DType;
use common::{assert_close, at_threads, bf16, bits, finite_difference, random, rel_l2, to_f64};
use echat_kernels::SeqLens;
use echat_kernels::mean_pool::{backward, forward, reference};

const LENS: [usize; 6] = [7, 1, 0, 300, 2, 64];

#[test]
fn matches_the_reference_and_an_empty_sequence_gives_zeros() {
    for (lens, d) in [(&LENS[..], 33), (&LENS[1..2], 1), (&LENS[..0], 5), (&LENS[2..3], 4)] {
        let seq = SeqLens::from_lens(lens.iter().copied());
        let (x, grad) = (random(1, &[seq.total(), d]), random(2, &[seq.count(), d]));
        assert_close(&forward(&x, &seq).unwrap(), &reference::forward(&to_f64(&x), &seq, d), 1e-6, "y");
        assert_close(&backward(&grad, &seq).unwrap(), &reference::backward(&to_f64(&grad), &seq, d), 1e-6, "dx");
    }
    let seq = SeqLens::from_lens([0]);
    assert_eq!(to_f64(&forward(&random(3, &[0, 2]), &seq).unwrap()), [0.0, 0.0]);
}

#[test]
fn bf16_storage() {
    let seq = SeqLens::from_lens(LENS);
    let (x, grad) = (bf16(&random(1, &[seq.total(), 20])), bf16(&random(2, &[seq.count(), 20])));
    let y = forward(&x, &seq).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    assert_close(&y, &reference::forward(&to_f64(&x), &seq, 20), 4e-3, "y");
    assert_close(&backward(&grad, &seq).unwrap(), &reference::backward(&to_f64(&grad), &seq, 20), 4e-3, "dx");
}

#[test]
fn reference_gradient_is_the_finite_difference() {
    let seq = SeqLens::from_lens([3, 0, 1]);
    let (x, grad) = (to_f64(&random(3, &[4, 2])), to_f64(&random(4, &[3, 2])));
    let loss = |x: &[f64]| reference::forward(x, &seq, 2).iter().zip(&grad).map(|(y, g)| y * g).sum::<f64>();
    let error = rel_l2(&reference::backward(&grad, &seq, 2), &finite_difference(loss, &x));
    assert!(error <= 1e-8, "{error:e}");
}

#[test]
fn same_bits_at_any_thread_count_and_alone_or_packed() {
    let seq = SeqLens::from_lens(LENS);
    let x = random(5, &[seq.total(), 64]);
    let run = |n| at_threads(n, || bits(&forward(&x, &seq).unwrap()));
    let packed = run(1);
    assert_eq!(packed, run(2));
    assert_eq!(packed, run(3));
    for (i, rows) in seq.ranges().enumerate() {
        let alone = x.narrow(0, rows.start, rows.len()).unwrap().contiguous().unwrap();
        let mean = forward(&alone, &SeqLens::from_lens([rows.len()])).unwrap();
        assert_eq!(bits(&mean), packed[i * 64..(i + 1) * 64]);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let seq = SeqLens::from_lens([2, 3]);
    assert!(forward(&random(1, &[4, 2]), &seq).is_err());
    assert!(forward(&random(1, &[5]), &seq).is_err());
    assert!(backward(&random(1, &[5, 2]), &seq).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_sequences_of_any_length() {
    echat_kernels::cuda::emulated(|| {
        // Ends on a chunk's, one row more, several chunks; several blocks across; in packs and not.
        for (lens, d) in [(vec![64, 65, 0, 0, 200, 1], 40), (vec![0, 130], 300), (vec![63, 129], 37), (vec![1; 70], 8)]
        {
            let seq = SeqLens::from_lens(lens);
            let (x, grad) = (random(1, &[seq.total(), d]), random(2, &[seq.count(), d]));
            for (x, grad, tol) in [(bf16(&x), bf16(&grad), 4e-3), (x, grad, 1e-6)] {
                assert_close(&forward(&x, &seq).unwrap(), &reference::forward(&to_f64(&x), &seq, d), tol, "y");
                let want = reference::backward(&to_f64(&grad), &seq, d);
                assert_close(&backward(&grad, &seq).unwrap(), &want, tol, "dx");
            }
        }
    });
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_give_the_same_bits_alone_and_packed() {
    echat_kernels::cuda::emulated(|| {
        let seq = SeqLens::from_lens([70, 3, 150]);
        let x = random(5, &[seq.total(), 33]);
        let packed = bits(&forward(&x, &seq).unwrap());
        for (i, rows) in seq.ranges().enumerate() {
            let alone = forward(&x.narrow(0, rows.start, rows.len()).unwrap(), &SeqLens::from_lens([rows.len()]));
            assert_eq!(bits(&alone.unwrap()), packed[i * 33..(i + 1) * 33]);
        }
    });
}

#[cfg(feature = "emulate")]
emulated!(matches_the_reference_and_an_empty_sequence_gives_zeros, bf16_storage, wrong_shapes_are_errors);
