//! The fused output head and cross-entropy against their f64 definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Tensor};
use common::{assert_close, at_threads, bf16, bits, finite_difference, loss_and_correct, random, rel_l2, to_f64};
use echat_kernels::linear_cross_entropy::{CHUNK_LOGITS, Loss, Needs, chunk_rows, forward, reference};

const ALL: Needs = Needs { hidden: true, weight: true };

struct Case {
    hidden: Tensor,
    weight: Tensor,
    rows: Vec<u32>,
    labels: Vec<u32>,
}

impl Case {
    /// Labels every row of `t` but each fourth.
    fn new(t: usize, v: usize, d: usize) -> Self {
        let rows: Vec<u32> = (0..t as u32).filter(|i| i % 4 != 3).collect();
        let labels = rows.iter().map(|i| (i * 31 + 3) % v as u32).collect();
        Self { hidden: (random(1, &[t, d]) * 2.0).unwrap(), weight: random(2, &[v, d]), rows, labels }
    }

    fn run(&self, needs: Needs) -> Loss {
        forward(&self.hidden, &self.weight, &self.rows, &self.labels, needs).unwrap()
    }

    fn check(&self, tol: f64) {
        let (hidden, weight, d) = (to_f64(&self.hidden), to_f64(&self.weight), self.hidden.dims()[1]);
        let loss = self.run(ALL);
        let want = reference::forward(&hidden, &weight, d, &self.rows, &self.labels);
        let (loss_sum, correct) = loss_and_correct(&loss.sums);
        assert!((loss_sum - want).abs() <= 1e-6 * want.abs(), "loss {loss_sum} {want}");
        assert_eq!(loss.count, self.rows.len() as u64);
        assert_eq!(correct, reference::correct(&hidden, &weight, d, &self.rows, &self.labels));
        let (d_hidden, d_weight) = reference::backward(&hidden, &weight, d, &self.rows, &self.labels);
        assert_close(&loss.d_hidden.unwrap(), &d_hidden, tol, "d_hidden");
        assert_close(&loss.d_weight.unwrap(), &d_weight, 1e-5, "d_weight");
    }
}

#[test]
fn matches_the_reference() {
    for (t, v, d) in [(1, 2, 1), (1, 300, 33), (0, 5, 4), (50, 1000, 64), (9, 2500, 16)] {
        Case::new(t, v, d).check(1e-5);
    }
}

#[test]
fn several_chunks_of_rows_match_the_reference() {
    let case = Case::new(1500, 70, 20);
    assert!(case.rows.len() > 2 * chunk_rows(70));
    case.check(1e-5);
}

#[test]
fn a_row_labelled_twice_counts_twice() {
    let mut case = Case::new(3, 10, 4);
    case.rows = vec![2, 0, 2];
    case.labels = vec![1, 2, 3];
    case.check(1e-5);
}

#[test]
fn bf16_storage() {
    let mut case = Case::new(50, 300, 64);
    (case.hidden, case.weight) = (bf16(&case.hidden), bf16(&case.weight));
    let loss = case.run(ALL);
    assert_eq!(loss.d_hidden.unwrap().dtype(), DType::BF16);
    assert_eq!(loss.d_weight.unwrap().dtype(), DType::F32);
    case.check(4e-3);
}

#[test]
fn reference_gradients_are_the_finite_differences() {
    let case = Case::new(4, 5, 3);
    let (hidden, weight) = (to_f64(&case.hidden), to_f64(&case.weight));
    let (d_hidden, d_weight) = reference::backward(&hidden, &weight, 3, &case.rows, &case.labels);
    let by_hidden = finite_difference(|x| reference::forward(x, &weight, 3, &case.rows, &case.labels), &hidden);
    let by_weight = finite_difference(|w| reference::forward(&hidden, w, 3, &case.rows, &case.labels), &weight);
    assert!(rel_l2(&d_hidden, &by_hidden) <= 1e-8);
    assert!(rel_l2(&d_weight, &by_weight) <= 1e-8);
}

#[test]
fn only_what_is_needed_is_computed_and_is_the_same() {
    let case = Case::new(20, 100, 16);
    let all = case.run(ALL);
    let hidden = case.run(Needs { hidden: true, weight: false });
    assert!(hidden.d_weight.is_none());
    assert_eq!(bits(&hidden.d_hidden.unwrap()), bits(all.d_hidden.as_ref().unwrap()));
    let none = case.run(Needs { hidden: false, weight: false });
    assert!(none.d_hidden.is_none() && none.d_weight.is_none());
    assert_eq!(loss_and_correct(&none.sums), loss_and_correct(&all.sums));
}

#[test]
fn same_bits_at_any_thread_count() {
    let case = Case::new(700, 500, 40);
    let run = |n| {
        at_threads(n, || {
            let loss = case.run(ALL);
            (loss_and_correct(&loss.sums).0.to_bits(), bits(&loss.d_hidden.unwrap()), bits(&loss.d_weight.unwrap()))
        })
    };
    let one = run(1);
    assert!(one == run(2));
    assert!(one == run(3));
}

#[test]
fn a_rows_gradient_is_the_same_bits_alone_or_among_others() {
    let case = Case::new(40, 300, 32);
    let together = bits(&case.run(ALL).d_hidden.unwrap());
    for (&row, &label) in case.rows.iter().zip(&case.labels) {
        let alone = forward(&case.hidden, &case.weight, &[row], &[label], ALL).unwrap();
        let at = row as usize * 32..(row as usize + 1) * 32;
        assert_eq!(bits(&alone.d_hidden.unwrap())[at.clone()], together[at]);
    }
}

#[test]
fn a_nan_is_returned_and_no_labels_give_zeros() {
    let mut case = Case::new(4, 5, 3);
    case.rows.clear();
    case.labels.clear();
    let loss = case.run(ALL);
    assert_eq!((loss_and_correct(&loss.sums), loss.count), ((0.0, 0), 0));
    assert_eq!(to_f64(&loss.d_hidden.unwrap()), [0.0; 12]);
    let mut case = Case::new(4, 5, 3);
    case.hidden = case.hidden.affine(f64::NAN, 0.0).unwrap();
    assert!(loss_and_correct(&case.run(ALL).sums).0.is_nan());
}

#[test]
fn chunks_are_bounded() {
    for v in [1, 100, 8192, 65_536, 125_696, 262_144, 1_000_000] {
        let rows = chunk_rows(v);
        assert!((16..=512).contains(&rows));
        assert!(rows * v <= CHUNK_LOGITS.max(16 * v), "{rows} rows of {v}");
    }
}

#[test]
fn wrong_shapes_rows_and_labels_are_errors() {
    let (hidden, weight) = (random(1, &[4, 3]), random(2, &[5, 3]));
    let message = |h: &Tensor, w: &Tensor, rows: &[u32], labels: &[u32]| {
        forward(h, w, rows, labels, ALL).unwrap_err().to_string()
    };
    assert!(message(&hidden, &random(2, &[5, 4]), &[0], &[0]).contains("weight"));
    assert!(message(&random(2, &[4]), &weight, &[0], &[0]).contains("hidden"));
    assert!(message(&hidden, &weight, &[0, 1], &[0]).contains("2 rows, 1 labels"));
    assert!(message(&hidden, &weight, &[4], &[0]).contains("row 4 is not one of 4"));
    assert!(message(&hidden, &weight, &[0], &[5]).contains("label 5 is not in a vocabulary of 5"));
}

/// Kernels round the logits' gradients to bf16 before they multiply them, as PyTorch does.
#[cfg(feature = "emulate")]
#[test]
fn kernels_in_bf16() {
    echat_kernels::cuda::emulated(|| {
        let mut case = Case::new(50, 300, 64);
        (case.hidden, case.weight) = (bf16(&case.hidden), bf16(&case.weight));
        let (hidden, weight) = (to_f64(&case.hidden), to_f64(&case.weight));
        let loss = case.run(ALL);
        let want = reference::forward(&hidden, &weight, 64, &case.rows, &case.labels);
        assert!((loss_and_correct(&loss.sums).0 - want).abs() <= 1e-6 * want.abs());
        let (d_hidden, d_weight) = reference::backward(&hidden, &weight, 64, &case.rows, &case.labels);
        assert_close(&loss.d_hidden.unwrap(), &d_hidden, 4e-3, "d_hidden");
        assert_close(&loss.d_weight.unwrap(), &d_weight, 4e-3, "d_weight");
    });
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference,
    several_chunks_of_rows_match_the_reference,
    a_row_labelled_twice_counts_twice,
    only_what_is_needed_is_computed_and_is_the_same,
    a_nan_is_returned_and_no_labels_give_zeros,
    wrong_shapes_rows_and_labels_are_errors
);
