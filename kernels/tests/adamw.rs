//! AdamW against its definition and against PyTorch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{DType, Device, Tensor};
use common::*;
use echat_kernels::adamw::{Hyper, reference, step};
use echat_kernels::step_control::Decision;

const HYPER: Hyper = Hyper {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-6,
    weight_decay: 0.1,
    decision: Decision::Taken { step: 1, grad_scale: 1.0 },
};

fn taken(step: u64, grad_scale: f32) -> Hyper<'static> {
    Hyper { decision: Decision::Taken { step, grad_scale }, ..HYPER }
}

fn flat(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn zeros(count: usize) -> Tensor {
    Tensor::zeros(count, DType::F32, &Device::Cpu).unwrap()
}

/// A tensor of its own with the values of `t`.
fn own(t: &Tensor) -> Tensor {
    t.copy().unwrap()
}

#[test]
fn matches_the_reference_over_steps() {
    for count in [0, 1, 17, 40_000] {
        let (p, m, v) = (random(1, &[count]), zeros(count), zeros(count));
        let (mut want_p, mut want_m, mut want_v) = (to_f64(&p), vec![0.0; count], vec![0.0; count]);
        let compute = p.to_dtype(DType::BF16).unwrap();
        for i in 1..=5 {
            let grad = random(100 + i, &[count]);
            step(&p, &m, &v, &grad, Some(&compute), taken(i, 0.125)).unwrap();
            reference::step(&mut want_p, &mut want_m, &mut want_v, &to_f64(&grad), HYPER, i, 0.125);
        }
        assert_close(&p, &want_p, 1e-6, "parameters");
        assert_close(&m, &want_m, 1e-6, "first moment");
        assert_close(&v, &want_v, 1e-6, "second moment");
        assert_eq!(bits(&compute), bits(&bf16(&p)));
    }
}

/// Three steps of `torch.optim.AdamW(lr=0.01, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)`, torch 2.15.
#[test]
fn matches_pytorch() {
    let (p, m, v) = (flat(&[0.5, -1.25, 0.03125, 2.0, -0.75]), zeros(5), zeros(5));
    let grads = [[0.1, -0.2, 0.3, 0.0, -0.5], [0.25, 0.125, -0.0625, 1e-6, 0.5], [-1.0, 0.75, 0.001, -3.0, 0.0]];
    for (i, grad) in grads.iter().enumerate() {
        step(&p, &m, &v, &flat(grad), None, taken(i as u64 + 1, 1.0)).unwrap();
    }
    let want_p =
        [0.48340994119644165, -1.2401822805404663, 0.012163798324763775, 1.9972599744796753, -0.7387068867683411];
    let want_m =
        [-0.06940000504255295, 0.07005000114440918, 0.018775001168251038, -0.2999998927116394, 0.004500001203268766];
    let want_v =
        [0.021417079493403435, 0.012324569746851921, 0.0018053028034046292, 0.17999999225139618, 0.009701999835669994];
    assert_close(&p, &want_p, 1e-7, "parameters");
    assert_close(&m, &want_m, 1e-7, "first moment");
    assert_close(&v, &want_v, 1e-7, "second moment");
}

#[test]
fn takes_a_bf16_gradient() {
    let grad = bf16(&random(2, &[33]));
    let (p, m, v) = (random(1, &[33]), zeros(33), zeros(33));
    let (mut want_p, mut want_m, mut want_v) = (to_f64(&p), vec![0.0; 33], vec![0.0; 33]);
    step(&p, &m, &v, &grad, None, HYPER).unwrap();
    reference::step(&mut want_p, &mut want_m, &mut want_v, &to_f64(&grad), HYPER, 1, 1.0);
    assert_close(&p, &want_p, 1e-6, "parameters");
}

#[test]
fn changes_its_view_alone() {
    let bucket = random(1, &[30]);
    let before = to_f64(&bucket);
    step(&bucket.narrow(0, 10, 5).unwrap(), &zeros(5), &zeros(5), &random(2, &[5]), None, HYPER).unwrap();
    let after = to_f64(&bucket);
    for i in 0..30 {
        assert_eq!(before[i] != after[i], (10..15).contains(&i), "element {i}");
    }
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (start, grad) = (random(1, &[50_001]), random(2, &[50_001]));
    let run = |threads| {
        let (p, m, v) = (own(&start), zeros(50_001), zeros(50_001));
        let compute = bf16(&start);
        at_threads(threads, || step(&p, &m, &v, &grad, Some(&compute), HYPER).unwrap());
        [bits(&p), bits(&m), bits(&v), bits(&compute)]
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_operands_are_errors() {
    let t = |seed| random(seed, &[4]);
    let (p, m, v, g) = (t(1), t(2), t(3), t(4));
    assert!(step(&p, &random(1, &[5]), &v, &g, None, HYPER).is_err());
    assert!(step(&p, &m, &random(1, &[5]), &g, None, HYPER).is_err());
    assert!(step(&p, &m, &v, &random(1, &[5]), None, HYPER).is_err());
    assert!(step(&p, &m, &v, &g, Some(&bf16(&random(1, &[5]))), HYPER).is_err());
    assert!(step(&p, &m, &v, &g, Some(&t(5)), HYPER).is_err());
    assert!(step(&bf16(&p), &m, &v, &g, None, HYPER).is_err());
    assert!(step(&p, &m, &v, &g, None, taken(0, 1.0)).is_err());
    let shared = random(1, &[8]);
    let (a, b) = (shared.narrow(0, 0, 4).unwrap(), shared.narrow(0, 4, 4).unwrap());
    let error = step(&a, &b, &v, &g, None, HYPER).unwrap_err().to_string();
    assert!(error.contains("share storage"), "{error}");
    assert_eq!(bits(&p), bits(&t(1)));
}

#[cfg(feature = "emulate")]
emulated!(
    matches_the_reference_over_steps,
    matches_pytorch,
    takes_a_bf16_gradient,
    changes_its_view_alone,
    wrong_operands_are_errors
);
