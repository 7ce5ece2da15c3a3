//! SGD against its definition and against PyTorch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use candle_core::{DType, Device, Tensor};
use common::*;
use echat_kernels::sgd::{Hyper, reference, step};
use echat_kernels::step_control::Decision;

const HYPER: Hyper = Hyper { lr: 0.1, momentum: 0.9, weight_decay: 0.05, decision: taken(1.0) };

const fn taken(grad_scale: f32) -> Decision<'static> {
    Decision::Taken { step: 1, grad_scale }
}

const PLAIN: Hyper = Hyper { momentum: 0.0, ..HYPER };

fn flat(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn zeros(count: usize) -> Tensor {
    Tensor::zeros(count, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn matches_the_reference_over_steps() {
    for count in [0, 1, 17, 40_000] {
        for hyper in [HYPER, PLAIN] {
            let (p, buffer) = (random(1, &[count]), zeros(count));
            let (mut want_p, mut want_buffer) = (to_f64(&p), vec![0.0; count]);
            let compute = bf16(&p);
            let with_momentum = hyper.momentum != 0.0;
            for i in 1..=5 {
                let grad = random(100 + i, &[count]);
                let hyper = Hyper { decision: taken(0.125), ..hyper };
                step(&p, with_momentum.then_some(&buffer), &grad, Some(&compute), hyper).unwrap();
                reference::step(&mut want_p, &mut want_buffer, &to_f64(&grad), hyper, 0.125);
            }
            assert_close(&p, &want_p, 1e-6, "parameters");
            if with_momentum {
                assert_close(&buffer, &want_buffer, 1e-6, "buffer");
            }
            assert_eq!(bits(&compute), bits(&bf16(&p)));
        }
    }
}

/// Three steps of `torch.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.05)`, torch 2.15.
#[test]
fn matches_pytorch() {
    let (p, buffer) = (flat(&[0.5, -1.25, 0.03125, 2.0, -0.75]), zeros(5));
    let grads = [[0.1, -0.2, 0.3, 0.0, -0.5], [0.25, 0.125, -0.0625, 1e-6, 0.5], [-1.0, 0.75, 0.001, -3.0, 0.0]];
    for grad in &grads {
        step(&p, Some(&buffer), &flat(grad), None, HYPER).unwrap();
    }
    let want_p = [0.5117496848106384, -1.2599543333053589, -0.0386098176240921, 2.2441396713256836, -0.689251184463501];
    let want_buffer =
        [-0.6293718814849854, 0.5344809293746948, 0.1880747228860855, -2.7308967113494873, -0.051425959914922714];
    assert_close(&p, &want_p, 1e-7, "parameters");
    assert_close(&buffer, &want_buffer, 1e-7, "buffer");
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (start, grad) = (random(1, &[50_001]), random(2, &[50_001]));
    let run = |threads| {
        let (p, buffer, compute) = (start.copy().unwrap(), zeros(50_001), bf16(&start));
        at_threads(threads, || step(&p, Some(&buffer), &grad, Some(&compute), HYPER).unwrap());
        let plain = start.copy().unwrap();
        at_threads(threads, || step(&plain, None, &grad, None, PLAIN).unwrap());
        [bits(&p), bits(&buffer), bits(&compute), bits(&plain)]
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn wrong_operands_are_errors() {
    let t = |seed| random(seed, &[4]);
    let (p, buffer, g) = (t(1), t(2), t(3));
    assert!(step(&p, Some(&random(1, &[5])), &g, None, HYPER).is_err());
    assert!(step(&p, Some(&buffer), &random(1, &[5]), None, HYPER).is_err());
    assert!(step(&p, Some(&buffer), &g, Some(&t(4)), HYPER).is_err());
    assert!(step(&p, Some(&p), &g, None, HYPER).is_err());
    let error = step(&p, None, &g, None, HYPER).unwrap_err().to_string();
    assert!(error.contains("needs a buffer"), "{error}");
    assert_eq!(bits(&p), bits(&t(1)));
}

#[cfg(feature = "emulate")]
emulated!(matches_the_reference_over_steps, matches_pytorch, wrong_operands_are_errors);
