//! Decisions about steps against their definition, and optimizers that go by them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{DType, Device, Tensor};
use common::*;
use echat_kernels::step_control::{Decision, Rule, decide, read, reference};
use echat_kernels::{adamw, sgd};

const RULE: Rule = Rule { clip_norm: 1.0, beta1: 0.9, beta2: 0.98 };

fn number(value: f64) -> Tensor {
    Tensor::from_vec(vec![value], 1, &Device::Cpu).unwrap()
}

#[test]
fn agrees_with_the_definition() {
    for (clip_norm, norm) in [(1.0, 0.5), (1.0, 1.0), (1.0, 4.0), (0.0, 1e9), (2.5, 0.0), (0.1, 1e-3)] {
        let rule = Rule { clip_norm, ..RULE };
        let steps = number(6.0);
        let decision = decide(&number(norm * norm), &steps, rule).unwrap();
        let numbers: Vec<f64> = decision.to_vec1().unwrap();
        let (go, scale) = reference::decide(norm, rule);
        let close = |got: f64, want: f64| assert!((got - want).abs() <= 1e-14 * want.abs(), "{got} {want}");
        let decided = read(&decision).unwrap();
        assert_eq!((decided.go, decided.steps), (go, 7.0));
        close(decided.grad_scale, scale);
        close(decided.norm, norm);
        close(numbers[3], 1.0 - 0.9f64.powi(7));
        close(numbers[4], 1.0 - 0.98f64.powi(7));
        assert_eq!(steps.to_vec1::<f64>().unwrap(), [7.0]);
    }
}

#[test]
fn what_is_not_finite_takes_no_step() {
    for bad in [f64::NAN, f64::INFINITY] {
        let steps = number(6.0);
        let decision = decide(&number(bad), &steps, RULE).unwrap();
        assert!(!read(&decision).unwrap().go);
        assert_eq!(steps.to_vec1::<f64>().unwrap(), [6.0]);
        let (p, m, v, g) = (random(1, &[33]), random(2, &[33]), random(3, &[33]), random(4, &[33]));
        let before = [bits(&p), bits(&m), bits(&v)];
        step_adamw(&p, &m, &v, &g, Decision::Made(&decision));
        assert_eq!([bits(&p), bits(&m), bits(&v)], before);
        step_sgd(&p, &m, &g, Decision::Made(&decision));
        assert_eq!([bits(&p), bits(&m), bits(&v)], before);
    }
}

fn step_adamw(p: &Tensor, m: &Tensor, v: &Tensor, g: &Tensor, decision: Decision) {
    let hyper = adamw::Hyper { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.1, decision };
    adamw::step(p, m, v, g, None, hyper).unwrap();
}

fn step_sgd(p: &Tensor, buffer: &Tensor, g: &Tensor, decision: Decision) {
    sgd::step(p, Some(buffer), g, None, sgd::Hyper { lr: 0.1, momentum: 0.9, weight_decay: 0.05, decision }).unwrap();
}

/// A decision on the device and the same numbers from the host give the same parameters.
#[test]
fn optimizers_go_by_decisions() {
    let steps = number(2.0);
    let decision = decide(&number(16.0), &steps, RULE).unwrap();
    let made = Decision::Made(&decision);
    let taken = Decision::Taken { step: 3, grad_scale: (1.0 / 4.000001) as f32 };
    let state = || {
        let positive = (random(3, &[1001]) * random(3, &[1001])).unwrap();
        (random(1, &[1001]), random(2, &[1001]), positive, random(4, &[1001]))
    };
    let ((p, m, v, g), (q, n, w, h)) = (state(), state());
    step_adamw(&p, &m, &v, &g, made);
    step_adamw(&q, &n, &w, &h, taken);
    for (got, want) in [(&p, &q), (&m, &n), (&v, &w)] {
        assert_close(got, &to_f64(want), 1e-7, "adamw");
    }
    step_sgd(&p, &m, &g, made);
    step_sgd(&q, &n, &h, taken);
    assert_close(&p, &to_f64(&q), 1e-7, "sgd");
}

#[test]
fn wrong_operands_are_errors() {
    let steps = number(0.0);
    assert!(decide(&Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap(), &steps, RULE).is_err());
    assert!(decide(&Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap(), &steps, RULE).is_err());
    assert!(decide(&number(1.0), &Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap(), RULE).is_err());
    assert!(read(&number(1.0)).is_err());
}

#[cfg(feature = "emulate")]
emulated!(
    agrees_with_the_definition,
    what_is_not_finite_takes_no_step,
    optimizers_go_by_decisions,
    wrong_operands_are_errors
);
