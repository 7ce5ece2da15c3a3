//! SwiGLU against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use common::*;
use echat_kernels::swiglu::{backward, forward, reference};

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for shape in [vec![1, 1], vec![1, 7], vec![5, 3, 33], vec![300, 100], vec![0, 4]] {
        let (gate, up, g) = ((random(1, &shape) * 6.0).unwrap(), random(2, &shape), random(3, &shape));
        let y = forward(&gate, &up).unwrap();
        assert_close(&y, &reference::forward(&to_f64(&gate), &to_f64(&up)), 1e-6, "y");
        let (dgate, dup) = backward(&g, &gate, &up).unwrap();
        let want = reference::backward(&to_f64(&g), &to_f64(&gate), &to_f64(&up));
        assert_close(&dgate, &want.0, 1e-6, "dgate");
        assert_close(&dup, &want.1, 1e-6, "dup");
    }
}

#[test]
fn stores_bf16() {
    let (gate, up, g) = (bf16(&random(1, &[9, 40])), bf16(&random(2, &[9, 40])), bf16(&random(3, &[9, 40])));
    let y = forward(&gate, &up).unwrap();
    assert_eq!(y.dtype(), candle_core::DType::BF16);
    assert_close(&y, &reference::forward(&to_f64(&gate), &to_f64(&up)), 3e-3, "y");
    let (dgate, dup) = backward(&g, &gate, &up).unwrap();
    let want = reference::backward(&to_f64(&g), &to_f64(&gate), &to_f64(&up));
    assert_close(&dgate, &want.0, 3e-3, "dgate");
    assert_close(&dup, &want.1, 3e-3, "dup");
}

#[test]
fn reference_gradients_are_finite_differences() {
    let (gate, up, g) = (to_f64(&random(1, &[15])), to_f64(&random(2, &[15])), to_f64(&random(3, &[15])));
    let loss = |gate: &[f64], up: &[f64]| reference::forward(gate, up).iter().zip(&g).map(|(y, g)| y * g).sum::<f64>();
    let (dgate, dup) = reference::backward(&g, &gate, &up);
    assert!(rel_l2(&dgate, &finite_difference(|gate| loss(gate, &up), &gate)) <= 1e-8);
    assert!(rel_l2(&dup, &finite_difference(|up| loss(&gate, up), &up)) <= 1e-8);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (gate, up, g) = (random(1, &[700, 65]), random(2, &[700, 65]), random(3, &[700, 65]));
    let run = |threads| {
        at_threads(threads, || {
            let (dgate, dup) = backward(&g, &gate, &up).unwrap();
            [bits(&forward(&gate, &up).unwrap()), bits(&dgate), bits(&dup)]
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_shapes_are_errors() {
    let (a, b) = (random(1, &[3, 5]), random(1, &[5, 3]));
    assert!(forward(&a, &b).is_err());
    assert!(backward(&a, &a, &b).is_err());
    assert!(backward(&b, &a, &a).is_err());
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_any_number_of_elements_beginning_anywhere() {
    echat_kernels::cuda::emulated(|| {
        for (n, skip) in [(4096, 0), (8192, 3), (5003, 0), (4099, 4), (3, 1)] {
            let view = |seed, narrow: bool| {
                let all = random(seed, &[n + skip]);
                (if narrow { bf16(&all) } else { all }).narrow(0, skip, n).unwrap()
            };
            for narrow in [false, true] {
                let (gate, up, g) = (view(1, narrow), view(2, narrow), view(3, narrow));
                let tol = if narrow { 3e-3 } else { 1e-6 };
                assert_close(
                    &forward(&gate, &up).unwrap(),
                    &reference::forward(&to_f64(&gate), &to_f64(&up)),
                    tol,
                    "y",
                );
                let (dgate, dup) = backward(&g, &gate, &up).unwrap();
                let want = reference::backward(&to_f64(&g), &to_f64(&gate), &to_f64(&up));
                assert_close(&dgate, &want.0, tol, "dgate");
                assert_close(&dup, &want.1, tol, "dup");
            }
        }
        assert!(forward(&random(1, &[4]), &bf16(&random(2, &[4]))).is_err());
    });
}

#[cfg(feature = "emulate")]
emulated!(matches_the_reference_at_ragged_sizes, stores_bf16, wrong_shapes_are_errors);
