//! Softmax cross-entropy against its f64 definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, bf16, finite_difference, loss_and_correct, random, rel_l2, to_f64};
use echat_kernels::cross_entropy::{backward, forward, reference};

fn labels(n: usize, c: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7 % c) as u32).collect()
}

#[test]
fn matches_the_reference() {
    for (n, c) in [(0, 5), (1, 1), (1, 5), (33, 5), (10, 100)] {
        let logits = (random(1, &[n, c]) * 8.0).unwrap();
        let labels = labels(n, c);
        let (sums, p) = forward(&logits, &labels).unwrap();
        let (loss, correct) = loss_and_correct(&sums);
        assert_eq!(correct, reference::correct(&to_f64(&logits), c, &labels), "correct");
        let want = reference::forward(&to_f64(&logits), c, &labels);
        assert!((loss - want).abs() <= 1e-12 * want.abs().max(1.0), "{loss} {want}");
        let grad = backward(&p, &labels).unwrap();
        assert_close(&grad, &reference::backward(&to_f64(&logits), c, &labels), 1e-6, "grad");
    }
}

#[test]
fn bf16_storage_gives_f32_gradients() {
    let logits = bf16(&random(2, &[9, 5]));
    let (_, p) = forward(&logits, &labels(9, 5)).unwrap();
    let grad = backward(&p, &labels(9, 5)).unwrap();
    assert_eq!(grad.dtype(), DType::F32);
    assert_close(&grad, &reference::backward(&to_f64(&logits), 5, &labels(9, 5)), 1e-6, "grad");
}

#[test]
fn reference_gradient_is_the_finite_difference() {
    let logits = to_f64(&random(3, &[4, 5]));
    let loss = |x: &[f64]| reference::forward(x, 5, &labels(4, 5));
    let error = rel_l2(&reference::backward(&logits, 5, &labels(4, 5)), &finite_difference(loss, &logits));
    assert!(error <= 1e-8, "{error:e}");
}

#[test]
fn large_logits_do_not_overflow_and_a_nan_is_returned() {
    let logits = Tensor::new(&[[1e30f32, -1e30, 0.0]], &Device::Cpu).unwrap();
    let (sums, p) = forward(&logits, &[0]).unwrap();
    assert_eq!((loss_and_correct(&sums), to_f64(&p)), ((0.0, 1), vec![1.0, 0.0, 0.0]));
    let logits = Tensor::new(&[[f32::NAN, 0.0]], &Device::Cpu).unwrap();
    assert!(loss_and_correct(&forward(&logits, &[1]).unwrap().0).0.is_nan());
}

#[test]
fn wrong_shapes_and_labels_are_errors() {
    let logits = random(4, &[2, 3]);
    assert!(forward(&logits, &[0]).is_err());
    assert!(forward(&logits, &[0, 3]).unwrap_err().to_string().contains("label 3 is not one of 3 classes"));
    assert!(forward(&random(4, &[2]), &[0, 1]).is_err());
    assert!(backward(&logits, &[0]).is_err());
}

#[test]
fn the_first_of_equal_logits_is_the_answer() {
    let logits = Tensor::new(&[[1f32, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, 5.0, 1.0]], &Device::Cpu).unwrap();
    let correct = |labels: &[u32]| loss_and_correct(&forward(&logits, labels).unwrap().0).1;
    assert_eq!(correct(&[1, 0, 1]), 3);
    assert_eq!(correct(&[2, 0, 1]), 2);
    assert_eq!(correct(&[0, 1, 2]), 0);
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference,
    bf16_storage_gives_f32_gradients,
    large_logits_do_not_overflow_and_a_nan_is_returned,
    the_first_of_equal_logits_is_the_answer,
    wrong_shapes_and_labels_are_errors
);
