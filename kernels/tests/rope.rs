//! Rotary embedding against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::rope::{Table, backward, forward, reference};

/// The usual inverse frequencies, `10000^(-2j / dh)`.
fn frequencies(dh: usize) -> Vec<f32> {
    (0..dh / 2).map(|j| 10000f32.powf(-2.0 * j as f32 / dh as f32)).collect()
}

fn as_f64(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for (t, h, dh) in [(1, 1, 2), (7, 3, 10), (100, 4, 64), (33, 2, 128), (0, 2, 4), (3, 0, 4)] {
        let table = Table::new(&frequencies(dh), 100).unwrap();
        let (x, g) = (random(1, &[t, h, dh]), random(2, &[t, h, dh]));
        let positions: Vec<u32> = (0..t as u32).map(|i| i * 7 % 100).collect();
        let (at, inv_freq) = (positions.iter().map(|&p| f64::from(p)).collect::<Vec<_>>(), as_f64(&frequencies(dh)));
        let y = forward(&x, &positions, &table).unwrap();
        assert_close(&y, &reference::forward(&to_f64(&x), &at, &inv_freq), 1e-6, "y");
        let dx = backward(&g, &positions, &table).unwrap();
        assert_close(&dx, &reference::backward(&to_f64(&g), &at, &inv_freq), 1e-6, "dx");
    }
}

#[test]
fn stores_bf16() {
    let table = Table::new(&frequencies(16), 9).unwrap();
    let x = bf16(&random(1, &[9, 2, 16]));
    let positions: Vec<u32> = (0..9).collect();
    let at: Vec<f64> = (0..9).map(f64::from).collect();
    let y = forward(&x, &positions, &table).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_close(&y, &reference::forward(&to_f64(&x), &at, &as_f64(&frequencies(16))), 3e-3, "y");
}

#[test]
fn reference_gradient_is_finite_differences() {
    let (x, g) = (to_f64(&random(1, &[3, 2, 6])), to_f64(&random(2, &[3, 2, 6])));
    let (at, inv_freq) = ([0.0, 3.0, 5.0], as_f64(&frequencies(6)));
    let loss = |x: &[f64]| reference::forward(x, &at, &inv_freq).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    assert!(rel_l2(&reference::backward(&g, &at, &inv_freq), &finite_difference(loss, &x)) <= 1e-8);
}

#[test]
fn scores_depend_on_the_distance_alone() {
    let table = Table::new(&frequencies(32), 2048).unwrap();
    let (q, k) = (random(1, &[1, 1, 32]), random(2, &[1, 1, 32]));
    let score = |i, j| {
        let (q, k) = (to_f64(&forward(&q, &[i], &table).unwrap()), to_f64(&forward(&k, &[j], &table).unwrap()));
        q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>()
    };
    assert!((score(5, 2) - score(1005, 1002)).abs() <= 1e-4);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let table = Table::new(&frequencies(64), 300).unwrap();
    let x = random(1, &[300, 3, 64]);
    let positions: Vec<u32> = (0..300).rev().collect();
    let run = |threads| {
        at_threads(threads, || {
            let turned = forward(&x, &positions, &table).unwrap();
            [bits(&turned), bits(&backward(&turned, &positions, &table).unwrap())]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_and_positions_are_errors() {
    let table = Table::new(&frequencies(8), 10).unwrap();
    assert_eq!((table.head_dim(), table.max_positions()), (8, 10));
    let x = random(1, &[2, 3, 8]);
    assert!(forward(&x, &[0], &table).is_err());
    assert!(forward(&x, &[0, 9], &table).is_ok());
    let error = forward(&x, &[0, 10], &table).unwrap_err().to_string();
    assert!(error.contains("position 10") && error.contains("10 positions"), "{error}");
    assert!(backward(&x, &[0, 10], &table).is_err());
    assert!(forward(&random(1, &[2, 3, 6]), &[0, 1], &table).is_err());
    assert!(forward(&random(1, &[2, 24]), &[0, 1], &table).is_err());
    assert!(Table::new(&[], 10).is_err());
    assert!(Table::new(&[f32::NAN], 10).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_heads_of_any_width_beginning_anywhere() {
    echat_kernels::cuda::emulated(|| {
        // In packs (the last across several blocks) and not; a view off a pack; the table is kept from call to call.
        for (t, h, dh, skip) in [(19, 3, 64, 0), (9, 5, 24, 0), (8, 2, 64, 3), (3, 40, 128, 0), (5, 3, 6, 0)] {
            let (table, inv_freq) = (Table::new(&frequencies(dh), 50).unwrap(), as_f64(&frequencies(dh)));
            let positions: Vec<u32> = (0..t as u32).map(|i| i * 13 % 50).collect();
            let at: Vec<f64> = positions.iter().map(|&p| f64::from(p)).collect();
            for narrow in [false, true] {
                let all = random(1, &[t * h * dh + skip]);
                let all = if narrow { bf16(&all) } else { all };
                let x = all.narrow(0, skip, t * h * dh).unwrap().reshape((t, h, dh)).unwrap();
                let tol = if narrow { 3e-3 } else { 1e-6 };
                let y = forward(&x, &positions, &table.clone()).unwrap();
                assert_close(&y, &reference::forward(&to_f64(&x), &at, &inv_freq), tol, "y");
                let dx = backward(&x, &positions, &table).unwrap();
                assert_close(&dx, &reference::backward(&to_f64(&x), &at, &inv_freq), tol, "dx");
            }
        }
    });
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    stores_bf16,
    scores_depend_on_the_distance_alone,
    wrong_shapes_and_positions_are_errors
);
