//! Wave normalisation against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::wave_norm::{append, forward, forward_packed, reference};
use echat_kernels::{SeqLens, rng};

fn samples(count: usize, offset: i32, range: i32) -> Vec<i16> {
    let draw = |i| rng::uniform(rng::key(7, i as u64)) - 0.5;
    (0..count).map(|i| (offset + (draw(i) * f64::from(range)) as i32).clamp(-32768, 32767) as i16).collect()
}

fn normalized(samples: &[i16], normalize: bool) -> Vec<f64> {
    let mut out = vec![f32::NAN; samples.len()];
    forward(samples, &mut out, normalize).unwrap();
    out.into_iter().map(f64::from).collect()
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for (count, offset, range) in [(1, 5, 0), (2, 0, 60_000), (17, 0, 100), (40_000, 0, 65_536), (30_000, 30_000, 50)] {
        let x = samples(count, offset, range);
        for normalize in [false, true] {
            let error = rel_l2(&normalized(&x, normalize), &reference::forward(&x, normalize));
            assert!(error <= 1e-6, "{count} samples at {offset}: {error:e}");
        }
    }
    assert!(normalized(&[], true).is_empty());
    assert_eq!(normalized(&[-32768, 16384], false), [-1.0, 0.5]);
    assert_eq!(normalized(&[7; 100], true), [0.0; 100]);
}

#[test]
fn the_result_has_no_mean_and_unit_variance() {
    let y = normalized(&samples(50_000, 300, 20_000), true);
    let mean = y.iter().sum::<f64>() / y.len() as f64;
    let variance = y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64;
    assert!(mean.abs() <= 1e-6 && (variance - 1.0).abs() <= 1e-4, "{mean} {variance}");
}

#[test]
fn a_packed_batch_is_its_utterances_at_any_number_of_threads() {
    let seq = SeqLens::from_lens([9_000, 0, 1, 12_000]);
    let x = samples(seq.total(), 100, 30_000);
    let want: Vec<f64> = seq.ranges().flat_map(|rows| normalized(&x[rows], true)).collect();
    for threads in [1, 2, 3] {
        let mut out = vec![f32::NAN; x.len()];
        at_threads(threads, || forward_packed(&x, &seq, &mut out, true).unwrap());
        assert_eq!(out.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), want);
    }
}

#[test]
fn appending_is_the_same() {
    let mut out = Vec::new();
    let parts = [samples(9_001, 100, 30_000), Vec::new(), samples(4_096, -32_768, 0), samples(3, 32_767, 0)];
    parts.iter().for_each(|part| append(part, &mut out, true));
    let want: Vec<f64> = parts.iter().flat_map(|part| normalized(part, true)).collect();
    assert_eq!(out.into_iter().map(f64::from).collect::<Vec<_>>(), want);
}

#[test]
fn wrong_lengths_are_errors() {
    let seq = SeqLens::from_lens([3]);
    assert!(forward(&[0; 3], &mut [0.0; 2], true).is_err());
    assert!(forward_packed(&[0; 2], &seq, &mut [0.0; 3], true).is_err());
    assert!(forward_packed(&[0; 3], &seq, &mut [0.0; 4], true).is_err());
}
