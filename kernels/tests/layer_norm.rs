//! LayerNorm against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::activation::{self, Activation::Gelu};
use echat_kernels::elementwise::add;
use echat_kernels::layer_norm::{
    backward, backward_added, backward_gelu, forward, forward_added, forward_gelu, reference,
};

const EPS: f64 = 1e-5;

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for shape in [vec![1, 1], vec![1, 7], vec![3, 16], vec![5, 3, 33], vec![300, 100], vec![0, 4]] {
        let d = shape[shape.len() - 1];
        let (x, w, b, g) = (random(1, &shape), random(2, &[d]), random(3, &[d]), random(4, &shape));
        let (y, stats) = forward(&x, &w, &b, EPS).unwrap();
        let (want_y, want_stats) = reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), EPS);
        assert_close(&y, &want_y, 1e-6, "y");
        assert_close(&stats, &want_stats, 1e-6, "stats");
        let (dx, weights) = backward(&g, &x, &w, &stats, true).unwrap();
        let (dw, db) = weights.unwrap();
        let (want_dx, want_dw, want_db) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), EPS);
        assert_close(&dx, &want_dx, 3e-6, "dx");
        assert_close(&dw, &want_dw, 2e-6, "dw");
        assert_close(&db, &want_db, 2e-6, "db");
        let (again, none) = backward(&g, &x, &w, &stats, false).unwrap();
        assert!(none.is_none());
        assert_eq!(bits(&again), bits(&dx));
    }
}

#[test]
fn an_offset_costs_no_more_than_its_rounding() {
    let x = (random(1, &[4, 256]) + 100.0).unwrap();
    let (w, b) = (random(2, &[256]), random(3, &[256]));
    let (y, _) = forward(&x, &w, &b, EPS).unwrap();
    assert_close(&y, &reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), EPS).0, 1e-5, "y");
}

#[test]
fn stores_bf16() {
    let (x, g) = (bf16(&random(1, &[9, 40])), bf16(&random(4, &[9, 40])));
    let (w, b) = (bf16(&random(2, &[40])), bf16(&random(3, &[40])));
    let (y, stats) = forward(&x, &w, &b, EPS).unwrap();
    let (dx, weights) = backward(&g, &x, &w, &stats, true).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_close(&y, &reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), EPS).0, 3e-3, "y");
    let (want_dx, want_dw, want_db) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), EPS);
    let (dw, db) = weights.unwrap();
    assert_close(&dx, &want_dx, 3e-3, "dx");
    assert_close(&dw, &want_dw, 1e-5, "dw");
    assert_close(&db, &want_db, 1e-5, "db");
}

#[test]
fn reference_gradients_are_finite_differences() {
    let (x, g) = (to_f64(&random(1, &[3, 5])), to_f64(&random(4, &[3, 5])));
    let (w, b) = (to_f64(&random(2, &[5])), to_f64(&random(3, &[5])));
    let loss = |x: &[f64], w: &[f64], b: &[f64]| {
        reference::forward(x, w, b, EPS).0.iter().zip(&g).map(|(y, g)| y * g).sum::<f64>()
    };
    let (dx, dw, db) = reference::backward(&g, &x, &w, EPS);
    assert!(rel_l2(&dx, &finite_difference(|x| loss(x, &w, &b), &x)) <= 1e-7);
    assert!(rel_l2(&dw, &finite_difference(|w| loss(&x, w, &b), &w)) <= 1e-7);
    assert!(rel_l2(&db, &finite_difference(|b| loss(&x, &w, b), &b)) <= 1e-7);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (x, g) = (random(1, &[700, 65]), random(4, &[700, 65]));
    let (w, b) = (random(2, &[65]), random(3, &[65]));
    let run = |threads| {
        at_threads(threads, || {
            let (y, stats) = forward(&x, &w, &b, EPS).unwrap();
            let (dx, weights) = backward(&g, &x, &w, &stats, true).unwrap();
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
    assert!(forward(&x, &random(1, &[4]), &w, EPS).is_err());
    assert!(forward(&x, &w, &random(1, &[4]), EPS).is_err());
    let (_, stats) = forward(&x, &w, &w, EPS).unwrap();
    assert!(backward(&random(1, &[3, 4]), &x, &w, &stats, true).is_err());
    assert!(backward(&x, &x, &w, &random(1, &[3]), true).is_err());
}

/// `forward` and `backward` at `shape` against the reference.
#[cfg(feature = "emulate")]
fn check(shape: &[usize], narrow: bool, tol: f64) {
    let d = shape[shape.len() - 1];
    let store = |t| if narrow { bf16(&t) } else { t };
    let (x, w) = (store(random(1, shape)), store(random(2, &[d])));
    let (b, g) = (store(random(3, &[d])), store(random(4, shape)));
    let (y, stats) = forward(&x, &w, &b, EPS).unwrap();
    let (want_y, want_stats) = reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), EPS);
    assert_close(&y, &want_y, tol, "y");
    assert_close(&stats, &want_stats, 1e-5, "stats");
    let (dx, weights) = backward(&g, &x, &w, &stats, true).unwrap();
    let (dw, db) = weights.unwrap();
    let (want_dx, want_dw, want_db) = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&w), EPS);
    assert_close(&dx, &want_dx, tol, "dx");
    assert_close(&dw, &want_dw, 1e-5, "dw");
    assert_close(&db, &want_db, 1e-5, "db");
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_make_rows_of_any_width() {
    echat_kernels::cuda::emulated(|| {
        for narrow in [false, true] {
            // In packs and not, several packs a thread, four (wide), more rows than blocks.
            for shape in [[5, 1024], [3, 1031], [2, 4100], [2, 8192], [2500, 24]] {
                check(&shape, narrow, if narrow { 3e-3 } else { 3e-6 });
            }
        }
        check(&[2, 9001], true, 3e-3);
        check(&[2, 16384], true, 3e-3);
        let (x, w) = (random(1, &[1, 8193]), random(2, &[8193]));
        assert!(forward(&x, &w, &w, EPS).unwrap_err().to_string().contains("8193 numbers are too wide"));
        let said = forward_gelu(&x, &w, &w, EPS).unwrap_err().to_string();
        assert!(said.contains("8193 numbers are too wide for a gelu"), "{said}");
        let (x, w) = (random(1, &[3, 8]), bf16(&random(2, &[8])));
        assert!(forward(&x, &w, &w, EPS).unwrap_err().to_string().contains("kernels take one"));
    });
}

/// Packs and not, several of them a thread, rows that share a block.
const WIDTHS: [[usize; 2]; 6] = [[5, 1024], [3, 1031], [2, 4100], [2500, 24], [9, 7], [0, 8]];

#[test]
fn a_residual_is_added_in_the_same_pass() {
    for narrow in [false, true] {
        let stored = |t: candle_core::Tensor| if narrow { bf16(&t) } else { t };
        let bound = if narrow { 4e-3 } else { 3e-6 };
        for shape in WIDTHS {
            let [x, branch, g, carried] = [1, 2, 3, 4].map(|seed| stored(random(seed, &shape)));
            let [w, b] = [5, 6].map(|seed| stored(random(seed, &[shape[1]])));
            let (sum, y, stats) = forward_added(&x, &branch, &w, &b, EPS).unwrap();
            assert_eq!(bits(&sum), bits(&add(&x, &branch).unwrap()));
            let (same_y, same_stats) = forward(&sum, &w, &b, EPS).unwrap();
            assert_eq!((bits(&y), bits(&stats)), (bits(&same_y), bits(&same_stats)));
            let (dx, weights) = backward_added(&g, Some(&carried), &sum, &w, &stats, true).unwrap();
            let (mut want, want_dw, want_db) = reference::backward(&to_f64(&g), &to_f64(&sum), &to_f64(&w), EPS);
            want.iter_mut().zip(to_f64(&carried)).for_each(|(dx, carried)| *dx += carried);
            let (dw, db) = weights.unwrap();
            assert_close(&dx, &want, bound, "dx");
            assert_close(&dw, &want_dw, bound, "dw");
            assert_close(&db, &want_db, bound, "db");
            let (without, _) = backward_added(&g, None, &sum, &w, &stats, false).unwrap();
            assert_eq!(bits(&without), bits(&backward(&g, &sum, &w, &stats, false).unwrap().0));
        }
    }
    let (x, w) = (random(1, &[3, 5]), random(2, &[5]));
    assert!(forward_added(&x, &random(1, &[3, 4]), &w, &w, EPS).is_err());
    let (_, stats) = forward(&x, &w, &w, EPS).unwrap();
    assert!(backward_added(&x, Some(&random(1, &[2, 5])), &x, &w, &stats, false).is_err());
}

#[test]
fn a_gelu_behind_it_is_part_of_the_same_pass() {
    for narrow in [false, true] {
        let stored = |t: candle_core::Tensor| if narrow { bf16(&t) } else { t };
        let bound = if narrow { 6e-3 } else { 5e-6 };
        for shape in WIDTHS {
            // The kernels' widest in f32 is 4096.
            let shape = shape.map(|size| size.min(4092));
            let [x, g] = [1, 2].map(|seed| stored(random(seed, &shape)));
            let [w, b] = [5, 6].map(|seed| stored(random(seed, &[shape[1]])));
            let (y, stats) = forward_gelu(&x, &w, &b, EPS).unwrap();
            let (z, want_stats) = reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), EPS);
            let none = vec![0.0; shape[1]];
            assert_close(&y, &activation::reference::forward(&z, &none, Gelu), bound, "y");
            assert_close(&stats, &want_stats, 1e-6, "stats");
            let (dx, weights) = backward_gelu(&g, &x, &w, &b, &stats, true).unwrap();
            let before = activation::reference::backward(&to_f64(&g), &z, &none, Gelu);
            let (want_dx, want_dw, want_db) = reference::backward(&before, &to_f64(&x), &to_f64(&w), EPS);
            let (dw, db) = weights.unwrap();
            assert_close(&dx, &want_dx, bound, "dx");
            assert_close(&dw, &want_dw, bound, "dw");
            assert_close(&db, &want_db, bound, "db");
            let (again, none) = backward_gelu(&g, &x, &w, &b, &stats, false).unwrap();
            assert!(none.is_none());
            assert_eq!(bits(&again), bits(&dx));
        }
    }
    let (x, w) = (random(1, &[3, 5]), random(2, &[5]));
    assert!(forward_gelu(&x, &w, &random(1, &[4]), EPS).is_err());
    let (_, stats) = forward_gelu(&x, &w, &w, EPS).unwrap();
    assert!(backward_gelu(&x, &x, &w, &random(1, &[4]), &stats, false).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    a_gelu_behind_it_is_part_of_the_same_pass,
    a_residual_is_added_in_the_same_pass,
    matches_the_reference_at_ragged_sizes,
    an_offset_costs_no_more_than_its_rounding,
    stores_bf16,
    wrong_shapes_are_errors
);
