//! The sum of squares against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{Device, Tensor};
use common::*;
use echat_kernels::grad_norm::{self, reference};

fn sum_of_squares(x: &Tensor) -> echat_kernels::Result<f64> {
    Ok(grad_norm::sum_of_squares(&[x])?.to_vec1::<f64>()?[0])
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for count in [0, 1, 15, 16, 17, 16_384, 100_001] {
        let x = random(1, &[count]);
        for x in [bf16(&x), x] {
            let (got, want) = (sum_of_squares(&x).unwrap(), reference::sum_of_squares(&to_f64(&x)));
            assert!((got - want).abs() <= 1e-12 * want, "{count}: {got} {want}");
        }
    }
}

#[test]
fn large_gradients_do_not_overflow() {
    let x = Tensor::full(1e30f32, 1000, &Device::Cpu).unwrap();
    let sum = sum_of_squares(&x).unwrap();
    assert!((sum / 1e63 - 1.0).abs() <= 1e-6, "{sum:e}");
}

#[test]
fn what_is_not_finite_shows() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 777, 49_999] {
            let mut values = vec![1.0f32; 50_000];
            values[at] = bad;
            let sum = sum_of_squares(&Tensor::from_vec(values, 50_000, &Device::Cpu).unwrap()).unwrap();
            assert!(!sum.is_finite(), "{bad} at {at}");
        }
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let x = random(1, &[100_001]);
    let run = |threads| at_threads(threads, || sum_of_squares(&x).unwrap().to_bits());
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn what_is_not_contiguous_or_a_float_is_an_error() {
    assert!(sum_of_squares(&random(1, &[3, 4]).t().unwrap()).is_err());
    assert!(sum_of_squares(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).is_err());
}

#[test]
fn several_tensors_are_summed_as_one() {
    let (x, y, none) = (random(1, &[5_000]), random(2, &[33]), random(3, &[0]));
    let got = grad_norm::sum_of_squares(&[&x, &none, &y]).unwrap().to_vec1::<f64>().unwrap()[0];
    let want = reference::sum_of_squares(&to_f64(&x)) + reference::sum_of_squares(&to_f64(&y));
    assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
    assert_eq!(grad_norm::sum_of_squares(&[]).unwrap().to_vec1::<f64>().unwrap(), [0.0]);
    // A view that begins anywhere.
    let tail = x.narrow(0, 3, 4_990).unwrap();
    let want = reference::sum_of_squares(&to_f64(&tail));
    assert!((sum_of_squares(&tail).unwrap() - want).abs() <= 1e-12 * want);
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    large_gradients_do_not_overflow,
    what_is_not_finite_shows,
    several_tensors_are_summed_as_one,
    what_is_not_contiguous_or_a_float_is_an_error
);
