//! The comparisons the ops' tests rest on do reject what they should.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::*;
use echat_kernels::parallel;

#[test]
fn not_a_number_is_never_close() {
    assert_eq!(rel_l2(&[f64::NAN], &[1.0]), f64::INFINITY);
    assert_eq!(rel_l2(&[1.0], &[f64::NAN]), f64::INFINITY);
    assert_eq!(rel_l2(&[f64::INFINITY], &[f64::INFINITY]), f64::INFINITY);
    assert_eq!(rel_l2(&[1.0], &[1.0, 2.0]), f64::INFINITY);
}

#[test]
fn relative_error_is_relative() {
    assert!((rel_l2(&[101.0], &[100.0]) - 0.01).abs() < 1e-12);
    assert_eq!(rel_l2(&[0.5], &[0.0]), 0.5);
    assert_eq!(rel_l2(&[], &[]), 0.0);
}

#[test]
fn differences_find_a_known_gradient() {
    let got = finite_difference(|x| x[0] * x[0] * x[1], &[3.0, -2.0]);
    assert!(rel_l2(&got, &[-12.0, 9.0]) < 1e-9);
}

#[test]
fn random_repeats_and_spreads() {
    assert_eq!(bits(&random(7, &[3, 5])), bits(&random(7, &[15])));
    assert_ne!(bits(&random(7, &[15])), bits(&random(8, &[15])));
    let values = to_f64(&random(1, &[10_000]));
    let mean = values.iter().sum::<f64>() / 10_000.0;
    assert!(mean.abs() < 0.02 && values.iter().all(|x| (-1.0..1.0).contains(x)));
}

#[test]
fn pools_have_the_size_asked_for() {
    assert_eq!((1..4).map(|n| at_threads(n, rayon::current_num_threads)).collect::<Vec<_>>(), [1, 2, 3]);
}

/// A product of few elements and much depth, such as a convolution's weight gradient.
#[test]
fn threads_share_work_that_writes_little() {
    let (begun, running) = (Instant::now(), AtomicUsize::new(0));
    at_threads(2, || {
        parallel::for_rows_with_work(&mut [0u8; 2], 1, 1, parallel::SERIAL_BELOW, |_, _| {
            running.fetch_add(1, SeqCst);
            while running.load(SeqCst) < 2 {
                assert!(begun.elapsed() < Duration::from_secs(20), "one piece waits for the other");
                std::thread::yield_now();
            }
        });
    });
}
