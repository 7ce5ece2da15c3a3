//! Accumulation against its definition.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{DType, Device, Tensor};
use common::*;
use echat_kernels::accumulate::{add, reference, zero};

/// A tensor of its own storage.
fn own(seed: u64, count: usize) -> Tensor {
    random(seed, &[count])
}

#[test]
fn matches_the_reference_at_ragged_sizes() {
    for count in [0, 1, 3, 4, 5, 1_023, 70_001] {
        for x in [own(2, count), bf16(&own(3, count))] {
            let sum = own(1, count);
            let want = reference::add(&to_f64(&sum), &to_f64(&x));
            add(&sum, &x).unwrap();
            assert_close(&sum, &want, 1e-7, "sum");
            zero(&sum).unwrap();
            assert!(to_f64(&sum).iter().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn changes_its_view_alone() {
    let all = own(1, 100);
    let before = to_f64(&all);
    let view = all.narrow(0, 13, 50).unwrap();
    add(&view, &own(2, 50)).unwrap();
    let after = to_f64(&all);
    assert!(after[..13] == before[..13] && after[63..] == before[63..] && after[13..63] != before[13..63]);
    zero(&view).unwrap();
    let after = to_f64(&all);
    assert!(after[13..63].iter().all(|&x| x == 0.0) && after[..13] == before[..13] && after[63..] == before[63..]);
}

#[test]
fn wrong_operands_are_errors() {
    let sum = own(1, 8);
    assert!(add(&sum, &own(2, 7)).is_err());
    assert!(add(&sum, &sum.narrow(0, 0, 8).unwrap()).is_err());
    assert!(add(&bf16(&sum), &own(2, 8)).is_err());
    assert!(add(&sum, &Tensor::zeros(8, DType::U32, &Device::Cpu).unwrap()).is_err());
    assert!(zero(&bf16(&sum)).is_err());
    assert!(zero(&random(1, &[3, 4]).t().unwrap()).is_err());
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let x = own(2, 100_001);
    let run = |threads| {
        let sum = own(1, 100_001);
        at_threads(threads, || add(&sum, &x).unwrap());
        bits(&sum)
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[cfg(feature = "emulate")]
emulated!(matches_the_reference_at_ragged_sizes, changes_its_view_alone, wrong_operands_are_errors);
