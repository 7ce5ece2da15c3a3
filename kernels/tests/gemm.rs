//! Matrix products of strided views.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use echat_kernels::gemm::{Packed, View, gemm, product};

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    random(seed, &[count]).to_vec1().unwrap()
}

/// Rows of `view` as f64.
fn dense(view: View, rows: usize, columns: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| f64::from(view.data[i * view.row + j * view.col]);
    (0..rows).flat_map(|i| (0..columns).map(move |j| at(i, j))).collect()
}

fn reference(m: usize, n: usize, k: usize, a: View, b: View) -> Vec<f64> {
    let (a, b) = (dense(a, m, k), dense(b, k, n));
    (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum()).collect()
}

fn check(m: usize, n: usize, k: usize, a: View, b: View, what: &str) {
    let want = reference(m, n, k, a, b);
    // C with room between its rows, which must be left alone.
    let stride = n + 3;
    for accumulate in [false, true] {
        let mut c = vec![0.5; m * stride];
        gemm(m, n, k, a, b, &mut c, stride, accumulate);
        let mut got = Vec::new();
        for row in c.chunks(stride) {
            got.extend(row[..n].iter().map(|x| f64::from(*x) - if accumulate { 0.5 } else { 0.0 }));
            assert!(row[n..].iter().all(|x| *x == 0.5), "{what}: wrote between the rows of C");
        }
        let error = rel_l2(&got, &want);
        let tol = if k < 10 && accumulate { 1e-4 } else { 1e-5 };
        assert!(error <= tol, "{what} {m} x {n} x {k}, accumulate {accumulate}: {error:e}");
    }
}

const SIZES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (12, 32, 256),
    (13, 33, 257),
    (6, 16, 8),
    (100, 70, 300),
    (5, 200, 40),
    (130, 5, 1000),
    (30, 40, 6000),
    (1, 600, 50),
    (64, 1, 77),
    // Several pieces of A, and of B, are copied.
    (2100, 3, 260),
    (3, 2100, 10),
];

#[test]
fn every_layout_agrees_with_the_definition() {
    for (m, n, k) in SIZES {
        let (a, b) = (numbers(1, 2 * m * k), numbers(2, 2 * k * n));
        let a_views = [
            ("rows", View::rows(&a, k)),
            ("wide rows", View { data: &a, row: 2 * k, col: 1 }),
            ("columns", View::rows(&a, m).t()),
            ("both strided", View { data: &a, row: 2, col: 2 * m }),
            ("one row again and again", View { data: &a, row: 0, col: 1 }),
        ];
        let b_views = [
            ("rows", View::rows(&b, n)),
            ("columns", View::rows(&b, k).t()),
            ("both strided", View { data: &b, row: 2 * n, col: 2 }),
        ];
        for (a_name, a) in a_views {
            for (b_name, b) in b_views {
                check(m, n, k, a, b, &format!("A {a_name}, B {b_name}"));
            }
        }
    }
}

#[test]
fn rows_of_a_may_overlap() {
    let a = numbers(1, 5 * 200 + 30);
    let b = numbers(2, 30 * 64);
    check(200, 64, 30, View { data: &a, row: 5, col: 1 }, View::rows(&b, 64), "overlapping rows");
    let grad = numbers(3, 200 * 24);
    let windows = View { data: &a, row: 5, col: 1 };
    check(24, 30, 200, View::rows(&grad, 24).t(), windows, "overlapping rows of B");
}

#[test]
fn no_rows_columns_or_depth() {
    let mut c = [1.0, 2.0];
    gemm(0, 2, 3, View::rows(&[], 3), View::rows(&[0.0; 6], 2), &mut c, 2, false);
    gemm(2, 0, 3, View::rows(&[0.0; 6], 3), View::rows(&[], 0), &mut c, 1, false);
    gemm(1, 2, 0, View::rows(&[], 0), View::rows(&[], 2), &mut c, 2, true);
    assert_eq!(c, [1.0, 2.0]);
    gemm(1, 2, 0, View::rows(&[], 0), View::rows(&[], 2), &mut c, 2, false);
    assert_eq!(c, [0.0, 0.0]);
}

#[test]
fn not_a_number_stays_in_its_row_and_column() {
    let (mut a, b) = (numbers(1, 30 * 20), numbers(2, 20 * 40));
    a[3 * 20 + 7] = f32::NAN;
    let mut c = vec![0.0; 30 * 40];
    gemm(30, 40, 20, View::rows(&a, 20), View::rows(&b, 40), &mut c, 40, false);
    for (i, x) in c.iter().enumerate() {
        assert_eq!(x.is_nan(), i / 40 == 3, "element {i}");
    }
}

#[test]
fn an_element_depends_on_its_row_and_column_alone() {
    let (m, n, k) = (150, 100, 700);
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let run = |m: usize, n: usize, a: View, b: View| {
        let mut c = vec![0.0; m * n];
        gemm(m, n, k, a, b, &mut c, n, false);
        c
    };
    let whole = run(m, n, View::rows(&a, k), View::rows(&b, n));
    let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
    assert_eq!(whole, run(m, n, View::rows(&a, k), View::rows(&transposed, k).t()));
    let packed = Packed::new(View::rows(&b, n), k, n);
    let mut c = vec![0.0; m * n];
    product(m, View::rows(&a, k), &packed, &mut c, n, false);
    // Here k is one piece of packed B, there it may be several.
    assert_eq!(whole, c);
    for (i, j) in [(0, 0), (149, 99), (77, 31), (12, 64)] {
        let one = run(1, 1, View::rows(&a[i * k..], k), View { data: &b[j..], row: n, col: 1 });
        assert_eq!(one[0], whole[i * n + j], "element ({i}, {j})");
    }
}

#[test]
fn threads_change_no_bit() {
    for (m, n, k) in [(800, 128, 96), (64, 192, 5000), (2000, 64, 30)] {
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let run = || {
            let mut c = vec![0.0; m * n];
            gemm(m, n, k, View::rows(&a, m).t(), View::rows(&b, n), &mut c, n, false);
            c
        };
        let one = at_threads(1, run);
        assert!((2..=3).all(|threads| at_threads(threads, run) == one), "{m} x {n} x {k}");
    }
}

#[test]
fn instruction_sets_change_no_bit() {
    // The last is cut along every side.
    for (m, n, k) in [(13, 33, 257), (130, 5, 1000), (1, 600, 50), (2100, 1100, 300)] {
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        with_same_bits(|| {
            let mut c = vec![0.0; 2 * m * n];
            let (rows, columns) = c.split_at_mut(m * n);
            gemm(m, n, k, View::rows(&a, k), View::rows(&b, n), rows, n, false);
            gemm(m, n, k, View::rows(&a, m).t(), View::rows(&b, k).t(), columns, n, false);
            c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        });
    }
}

#[test]
#[should_panic(expected = "gemm: A is shorter than 2 x 3")]
fn a_short_operand_is_refused() {
    gemm(2, 1, 3, View::rows(&[0.0; 5], 3), View::rows(&[0.0; 3], 1), &mut [0.0; 2], 1, false);
}
