//! Row normalisation against its f64 definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, at_threads, bf16, bits, finite_difference, random, rel_l2, to_f64};
use echat_kernels::row_normalize::{backward, forward, reference};

const SHAPES: [(usize, usize); 5] = [(0, 4), (1, 1), (1, 33), (70, 17), (301, 64)];

#[test]
fn matches_the_reference() {
    for (seed, (v, d)) in SHAPES.into_iter().enumerate() {
        let (w, grad) = (random(seed as u64, &[v, d]), random(100 + seed as u64, &[v, d]));
        let (y, norms) = forward(&w).unwrap();
        assert_close(&y, &reference::forward(&to_f64(&w), d), 1e-6, "y");
        let dw = backward(&grad, &w, &norms).unwrap();
        assert_close(&dw, &reference::backward(&to_f64(&grad), &to_f64(&w), d), 1e-5, "dw");
    }
}

#[test]
fn bf16_storage() {
    let (w, grad) = (bf16(&random(1, &[70, 40])), bf16(&random(2, &[70, 40])));
    let (y, norms) = forward(&w).unwrap();
    assert_eq!((y.dtype(), norms.dtype()), (DType::BF16, DType::F32));
    assert_close(&y, &reference::forward(&to_f64(&w), 40), 4e-3, "y");
    let dw = backward(&grad, &w, &norms).unwrap();
    assert_close(&dw, &reference::backward(&to_f64(&grad), &to_f64(&w), 40), 4e-3, "dw");
}

#[test]
fn reference_gradient_is_the_finite_difference() {
    let (w, grad) = (to_f64(&random(3, &[3, 5])), to_f64(&random(4, &[3, 5])));
    let loss = |w: &[f64]| reference::forward(w, 5).iter().zip(&grad).map(|(y, g)| y * g).sum::<f64>();
    let error = rel_l2(&reference::backward(&grad, &w, 5), &finite_difference(loss, &w));
    assert!(error <= 1e-7, "{error:e}");
}

#[test]
fn a_zero_row_stays_zero_and_its_gradient_is_that_of_a_constant_divisor() {
    let w = Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap();
    let grad = Tensor::new(&[[1f32, 0.0, -2.0]], &Device::Cpu).unwrap();
    let (y, norms) = forward(&w).unwrap();
    assert_eq!(to_f64(&y), [0.0; 3]);
    assert_close(&backward(&grad, &w, &norms).unwrap(), &[1e12, 0.0, -2e12], 1e-6, "dw");
}

#[test]
fn nothing_flows_through_the_norm_of_a_row_shorter_than_eps() {
    let w = Tensor::new(&[[3e-13f32, 4e-13]], &Device::Cpu).unwrap();
    let grad = Tensor::new(&[[1f32, -2.0]], &Device::Cpu).unwrap();
    let (y, norms) = forward(&w).unwrap();
    assert_close(&y, &[0.3, 0.4], 1e-6, "y");
    assert_close(&backward(&grad, &w, &norms).unwrap(), &[1e12, -2e12], 1e-6, "dw");
}

#[test]
fn same_bits_at_any_thread_count() {
    let (w, grad) = (random(5, &[500, 50]), random(6, &[500, 50]));
    let run = |n| {
        at_threads(n, || {
            let (y, norms) = forward(&w).unwrap();
            (bits(&y), bits(&norms), bits(&backward(&grad, &w, &norms).unwrap()))
        })
    };
    assert_eq!(run(1), run(2));
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let w = random(7, &[4, 3]);
    let (_, norms) = forward(&w).unwrap();
    assert!(forward(&random(8, &[4])).is_err());
    assert!(backward(&random(8, &[3, 4]), &w, &norms).is_err());
    assert!(backward(&w, &w, &random(8, &[3])).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_make_rows_of_any_width() {
    echat_kernels::cuda::emulated(|| {
        for (v, d) in [(3, 1024), (2, 1031), (2, 4100), (2, 8192), (1, 16384), (5, 40)] {
            for (w, tol) in [(random(1, &[v, d]), 1e-5), (bf16(&random(1, &[v, d])), 4e-3)] {
                if d > 8192 && w.dtype() == DType::F32 {
                    assert!(forward(&w).unwrap_err().to_string().contains("too wide"));
                    continue;
                }
                let grad = random(2, &[v, d]).to_dtype(w.dtype()).unwrap();
                let (y, norms) = forward(&w).unwrap();
                assert_close(&y, &reference::forward(&to_f64(&w), d), tol, "y");
                let want = reference::backward(&to_f64(&grad), &to_f64(&w), d);
                assert_close(&backward(&grad, &w, &norms).unwrap(), &want, tol, "dw");
            }
        }
    });
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference,
    bf16_storage,
    a_zero_row_stays_zero_and_its_gradient_is_that_of_a_constant_divisor,
    nothing_flows_through_the_norm_of_a_row_shorter_than_eps,
    wrong_shapes_are_errors
);
