//! Sums and multiples against their definitions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::*;
use echat_kernels::elementwise::{add, reference, scale};

#[test]
fn agree_with_their_definitions_on_any_threads() {
    for shape in [vec![0, 4], vec![1, 1], vec![7, 33], vec![300, 700]] {
        let (a, b) = (random(1, &shape), random(2, &shape));
        let (ra, rb) = (to_f64(&a), to_f64(&b));
        assert_close(&add(&a, &b).unwrap(), &reference::add(&ra, &rb), 1e-6, "add");
        assert_close(&scale(&a, 0.3).unwrap(), &reference::scale(&ra, 0.3), 1e-6, "scale");
        let one = at_threads(1, || (bits(&add(&a, &b).unwrap()), bits(&scale(&a, 0.3).unwrap())));
        for n in [2, 3] {
            let more = at_threads(n, || (bits(&add(&a, &b).unwrap()), bits(&scale(&a, 0.3).unwrap())));
            assert_eq!(more, one, "{n} threads");
        }
        let (ha, hb) = (bf16(&a), bf16(&b));
        assert_close(&add(&ha, &hb).unwrap(), &reference::add(&to_f64(&ha), &to_f64(&hb)), 4e-3, "add bf16");
    }
}

#[test]
fn other_shapes_are_errors_and_nan_stays() {
    assert!(add(&random(1, &[2, 3]), &random(2, &[3, 2])).is_err());
    let nan = scale(&random(1, &[4]), f64::NAN).unwrap();
    assert!(to_f64(&nan).iter().all(|v| v.is_nan()));
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_take_any_number_of_elements_beginning_anywhere() {
    for (n, skip) in [(4096, 0), (8192, 3), (5003, 0), (4099, 4), (3, 1), (0, 0)] {
        let (a, b) = (random(1, &[n + skip]), random(2, &[n + skip]));
        for (a, b) in [(bf16(&a), bf16(&b)), (a, b)] {
            let (a, b) = (a.narrow(0, skip, n).unwrap(), b.narrow(0, skip, n).unwrap());
            let run = || [bits(&add(&a, &b).unwrap()), bits(&scale(&a, -1.7).unwrap())];
            assert_eq!(echat_kernels::cuda::emulated(run), run());
        }
    }
    let mixed = || add(&random(1, &[4]), &bf16(&random(2, &[4])));
    assert!(echat_kernels::cuda::emulated(mixed).unwrap_err().to_string().contains("kernels take one"));
}

#[cfg(feature = "emulate")]
emulated!(agree_with_their_definitions_on_any_threads, other_shapes_are_errors_and_nan_stays);
