//! The check of every op, on the CPU and with the GPU's kernels as host C++.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use candle_core::Device;
#[cfg(feature = "emulate")]
use echat_kernels::check::other_paths;
use echat_kernels::check::{Compared, run};

fn failures(compared: &[Compared]) -> Vec<&Compared> {
    compared.iter().filter(|c| !c.holds()).collect()
}

#[test]
fn every_op_agrees_with_its_definition() {
    let compared = run(&Device::Cpu);
    assert!(compared.len() > 250, "{}", compared.len());
    assert!(failures(&compared).is_empty(), "{:#?}", failures(&compared));
}

#[cfg(feature = "emulate")]
#[test]
fn every_emulated_op_agrees_with_its_definition() {
    let compared = echat_kernels::cuda::emulated(|| run(&Device::Cpu));
    assert!(failures(&compared).is_empty(), "{:#?}", failures(&compared));
}

#[cfg(feature = "emulate")]
#[test]
fn emulated_attention_agrees_by_paths_that_are_not_taken() {
    let compared = echat_kernels::cuda::emulated(|| other_paths(&Device::Cpu));
    assert!(compared.len() > 20 && compared.iter().any(|c| c.what.contains("by wgmma")), "{compared:#?}");
    assert!(failures(&compared).is_empty(), "{:#?}", failures(&compared));
    assert!(other_paths(&Device::Cpu).is_empty());
}

/// Not finite or not as many: no agreement.
#[test]
fn an_infinite_error_does_not_hold() {
    let compared =
        Compared { op: "op", what: "x".into(), dtype: candle_core::DType::F32, error: f64::NAN, bound: f64::INFINITY };
    assert!(!compared.holds());
}
