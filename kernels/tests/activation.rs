//! Activations against their definitions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{Device, Tensor};
use common::*;
use echat_kernels::activation::{Activation, backward, column_sum, forward, reference};

const KINDS: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];

/// Uniform in [-6, 6).
fn wide(seed: u64, shape: &[usize]) -> Tensor {
    (random(seed, shape) * 6.0).unwrap()
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for shape in [vec![1, 1], vec![1, 7], vec![3, 16], vec![5, 3, 33], vec![300, 100], vec![0, 4]] {
        let d = shape[shape.len() - 1];
        let (x, b, g) = (wide(1, &shape), random(2, &[d]), random(3, &shape));
        for kind in KINDS {
            for bias in [None, Some(&b)] {
                let b = bias.map_or(vec![0.0; d], to_f64);
                let y = forward(&x, bias, kind).unwrap();
                assert_close(&y, &reference::forward(&to_f64(&x), &b, kind), 1e-6, "y");
                let dx = backward(&g, &x, bias, kind).unwrap();
                assert_close(&dx, &reference::backward(&to_f64(&g), &to_f64(&x), &b, kind), 1e-6, "dx");
            }
        }
        assert_close(&column_sum(&x).unwrap(), &reference::column_sum(&to_f64(&x), d), 1e-5, "column sum");
    }
}

#[test]
fn is_within_a_millionth_everywhere() {
    let at: Vec<f32> = (-100_000..=100_000).map(|i| i as f32 * 1.5e-4).collect();
    let x = Tensor::from_vec(at.clone(), (1, at.len()), &Device::Cpu).unwrap();
    let ones = x.ones_like().unwrap();
    for kind in KINDS {
        let (y, dx) = (to_f64(&forward(&x, None, kind).unwrap()), to_f64(&backward(&ones, &x, None, kind).unwrap()));
        for ((x, y), dx) in at.iter().zip(y).zip(dx) {
            let (value, slope) = reference::value_and_slope(f64::from(*x), kind);
            let tol = 1e-6 * value.abs().max(1.0);
            assert!((y - value).abs() <= tol && (dx - slope).abs() <= tol, "{kind:?} at {x}");
        }
    }
}

#[test]
fn extremes_stay_finite_and_a_nan_is_not_hidden() {
    let x = Tensor::new(&[[-1e30f32, -200.0, 200.0, 1e30]], &Device::Cpu).unwrap();
    let nan = Tensor::new(&[[f32::NAN]], &Device::Cpu).unwrap();
    let (ones, one) = (x.ones_like().unwrap(), nan.ones_like().unwrap());
    for kind in KINDS {
        assert_eq!(to_f64(&forward(&x, None, kind).unwrap()), [0.0, 0.0, 200.0, f64::from(1e30f32)], "{kind:?}");
        assert_eq!(to_f64(&backward(&ones, &x, None, kind).unwrap()), [0.0, 0.0, 1.0, 1.0], "{kind:?}");
        assert!(to_f64(&forward(&nan, None, kind).unwrap())[0].is_nan(), "{kind:?}");
        if kind != Activation::Relu {
            assert!(to_f64(&backward(&one, &nan, None, kind).unwrap())[0].is_nan(), "{kind:?}");
        }
    }
}

#[test]
fn stores_bf16() {
    let (x, b, g) = (bf16(&wide(1, &[9, 40])), bf16(&random(2, &[40])), bf16(&random(3, &[9, 40])));
    for kind in KINDS {
        let y = forward(&x, Some(&b), kind).unwrap();
        assert_eq!(y.dtype(), candle_core::DType::BF16);
        assert_close(&y, &reference::forward(&to_f64(&x), &to_f64(&b), kind), 3e-3, "y");
        let dx = backward(&g, &x, Some(&b), kind).unwrap();
        assert_close(&dx, &reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&b), kind), 3e-3, "dx");
    }
    let sum = column_sum(&x).unwrap();
    assert_eq!(sum.dtype(), candle_core::DType::F32);
    assert_close(&sum, &reference::column_sum(&to_f64(&x), 40), 1e-5, "column sum");
}

#[test]
fn reference_gradients_are_finite_differences() {
    let (x, b, g) = (to_f64(&wide(1, &[4, 5])), to_f64(&random(2, &[5])), to_f64(&random(3, &[4, 5])));
    for kind in KINDS {
        let loss =
            |x: &[f64], b: &[f64]| reference::forward(x, b, kind).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
        let dx = reference::backward(&g, &x, &b, kind);
        assert!(rel_l2(&dx, &finite_difference(|x| loss(x, &b), &x)) <= 1e-7, "{kind:?}");
        let db = reference::column_sum(&dx, 5);
        assert!(rel_l2(&db, &finite_difference(|b| loss(&x, b), &b)) <= 1e-7, "{kind:?}");
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (x, b, g) = (wide(1, &[700, 65]), random(2, &[65]), random(3, &[700, 65]));
    let run = |threads| {
        at_threads(threads, || {
            let dx = backward(&g, &x, Some(&b), Activation::Gelu).unwrap();
            [bits(&forward(&x, Some(&b), Activation::Gelu).unwrap()), bits(&column_sum(&dx).unwrap()), bits(&dx)]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let (x, b) = (random(1, &[3, 5]), random(1, &[4]));
    assert!(forward(&x, Some(&b), Activation::Relu).is_err());
    assert!(forward(&random(1, &[]), None, Activation::Relu).is_err());
    assert!(backward(&random(1, &[5, 3]), &x, None, Activation::Relu).is_err());
    assert!(backward(&x, &x, Some(&b), Activation::Relu).is_err());
    assert!(column_sum(&random(1, &[])).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_rows_of_any_width_beginning_anywhere() {
    echat_kernels::cuda::emulated(|| {
        // In packs, ragged, several blocks across, a view that begins off a pack.
        for (rows, d, skip) in [(17, 64, 0), (9, 67, 0), (3, 2600, 0), (8, 64, 1)] {
            for narrow in [false, true] {
                let store = |t: Tensor| if narrow { bf16(&t) } else { t };
                let view = |seed| {
                    let all = store(wide(seed, &[rows * d + skip]));
                    all.narrow(0, skip, rows * d).unwrap().reshape((rows, d)).unwrap()
                };
                let (x, g, b) = (view(1), view(3), store(random(2, &[d])));
                for kind in KINDS {
                    let tol = if narrow { 3e-3 } else { 1e-6 };
                    let y = forward(&x, Some(&b), kind).unwrap();
                    assert_close(&y, &reference::forward(&to_f64(&x), &to_f64(&b), kind), tol, "y");
                    let dx = backward(&g, &x, Some(&b), kind).unwrap();
                    let want = reference::backward(&to_f64(&g), &to_f64(&x), &to_f64(&b), kind);
                    assert_close(&dx, &want, tol, "dx");
                }
            }
        }
        let (x, b) = (random(1, &[2, 8]), bf16(&random(2, &[8])));
        assert!(forward(&x, Some(&b), Activation::Relu).is_err());
    });
}

#[cfg(feature = "emulate")]
#[test]
fn the_kernels_column_sum_takes_any_number_of_rows() {
    echat_kernels::cuda::emulated(|| {
        // One stretch; several; so many that each has more than 64 rows; several blocks across.
        for (rows, d) in [(1, 5), (64, 8), (65, 8), (1000, 24), (2000, 7), (33_001, 3), (700, 300), (0, 9)] {
            for x in [random(1, &[rows, d]), bf16(&random(2, &[rows, d]))] {
                let sum = column_sum(&x).unwrap();
                assert_eq!(sum.dims(), [d]);
                assert_close(&sum, &reference::column_sum(&to_f64(&x), d), 1e-5, &format!("{rows} x {d}"));
            }
        }
        assert_eq!(column_sum(&random(1, &[5, 0])).unwrap().dims(), [0]);
    });
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_at_ragged_sizes,
    is_within_a_millionth_everywhere,
    extremes_stay_finite_and_a_nan_is_not_hidden,
    stores_bf16,
    wrong_shapes_are_errors
);
