//! AdamW and SGD over buckets: equal to PyTorch's (tests/golden/optim/make.py), and exactly resumable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use echat::autograd::{Buckets, GradSink, Group, Params};
use echat::optim::{Optimizer, OptimizerConfig, OptimizerKind};
use echat_kernels::step_control::{self, Decision};
use serde_json::Value;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/optim/expected.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn names(golden: &Value) -> Vec<String> {
    golden["shapes"].as_object().unwrap().keys().cloned().collect()
}

fn tensor(golden: &Value, name: &str, values: &Value) -> Tensor {
    let shape: Vec<usize> =
        golden["shapes"][name].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    Tensor::from_vec(numbers(values), shape, &Device::Cpu).unwrap()
}

/// The parameters of one case, in several buckets.
fn model(golden: &Value, case: &Value, dtype: DType) -> (Params, Buckets) {
    let mut params = Params::training(&BTreeSet::from([Group::Encoder, Group::Connector]));
    for name in names(golden) {
        let group = if name.starts_with("encoder") { Group::Encoder } else { Group::Connector };
        let value = tensor(golden, &name, &case["initial"][&name]);
        params.register(&name, group, value, dtype).unwrap();
    }
    let buckets = params.lay_out(60).unwrap();
    assert!(buckets.len() > 1 && buckets.iter().any(|b| b.segments.len() > 1));
    (params, buckets)
}

fn config(kind: OptimizerKind, momentum: f64, weight_decay: f64) -> OptimizerConfig {
    let groups = [("encoder".to_owned(), 2e-3)].into();
    let clip_norm = golden()["clip"].as_f64().unwrap();
    OptimizerConfig { kind, lr: 1e-2, groups, momentum, weight_decay, clip_norm, ..OptimizerConfig::default() }
}

/// Takes golden step `s`; the gradient norm before clipping.
fn step(golden: &Value, case: &Value, s: usize, params: &Params, buckets: &Buckets, optimizer: &mut Optimizer) -> f64 {
    buckets.zero_grad().unwrap();
    let mut sink = buckets.sink(None);
    let count = golden["count"].as_f64().unwrap();
    for name in names(golden) {
        let gradient = tensor(golden, &name, &case["steps"][s]["gradients"][&name]);
        sink.add(params.get(&name).unwrap().slot().unwrap(), &(gradient / count).unwrap()).unwrap();
    }
    let decision = optimizer.decide(buckets).unwrap();
    optimizer.step(buckets, golden["factors"][s].as_f64().unwrap(), Decision::Made(&decision)).unwrap();
    let decided = step_control::read(&decision).unwrap();
    optimizer.learn(&decided);
    assert!(decided.go);
    decided.norm
}

fn equals_torch(which: &str, config: &OptimizerConfig) {
    let golden = golden();
    let case = &golden[which];
    let (params, buckets) = model(&golden, case, DType::F32);
    let mut optimizer = Optimizer::new(config, &buckets).unwrap();
    let steps = case["steps"].as_array().unwrap();
    for (s, want) in steps.iter().enumerate() {
        let norm = step(&golden, case, s, &params, &buckets, &mut optimizer);
        let want_norm = want["norm"].as_f64().unwrap();
        assert!((norm - want_norm).abs() <= 1e-6 * want_norm, "step {s}: norm {norm}, {want_norm} in torch");
        for name in names(&golden) {
            let got: Vec<f32> = params.get(&name).unwrap().tensor().flatten_all().unwrap().to_vec1().unwrap();
            let (want, initial) = (numbers(&want["parameters"][&name]), numbers(&case["initial"][&name]));
            let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let (error, change) = (square(&got, &want).sqrt(), square(&want, &initial).sqrt());
            // The masters are f32 and are rounded once a step, by at most half a unit in the last place; so is the golden value.
            let rounding =
                (s + 2) as f64 * 0.5 * f64::from(f32::EPSILON) * square(&want, &vec![0.0; want.len()]).sqrt();
            assert!(error <= rounding + 1e-6 * change, "{which} step {s} {name}: error {error:e}, change {change:e}");
        }
    }
    assert_eq!(optimizer.steps(), steps.len() as u64);
}

#[test]
fn adamw_equals_torch() {
    equals_torch("adamw", &config(OptimizerKind::Adamw, 0.0, 0.1));
}

#[test]
fn sgd_with_momentum_and_decay_equals_torch() {
    equals_torch("sgd", &config(OptimizerKind::Sgd, 0.9, 0.1));
}

#[test]
fn plain_sgd_equals_torch() {
    equals_torch("sgd_plain", &config(OptimizerKind::Sgd, 0.0, 0.0));
}

fn masters(buckets: &Buckets) -> Vec<Vec<u32>> {
    let bits = |t: &Tensor| t.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    buckets.iter().map(|b| bits(&b.master)).collect()
}

#[test]
fn a_resumed_optimizer_goes_on_bit_by_bit() {
    let golden = golden();
    for (which, config) in [
        ("adamw", config(OptimizerKind::Adamw, 0.0, 0.1)),
        ("sgd", config(OptimizerKind::Sgd, 0.9, 0.1)),
        ("sgd_plain", config(OptimizerKind::Sgd, 0.0, 0.0)),
    ] {
        let case = &golden[which];
        let (params, buckets) = model(&golden, case, DType::F32);
        let mut optimizer = Optimizer::new(&config, &buckets).unwrap();
        for s in 0..4 {
            step(&golden, case, s, &params, &buckets, &mut optimizer);
        }
        let state: Vec<(String, Tensor)> =
            (optimizer.state(&buckets).unwrap().into_iter()).map(|(name, t)| (name, t.copy().unwrap())).collect();
        let expected = if which == "adamw" {
            10
        } else if which == "sgd" {
            5
        } else {
            0
        };
        assert_eq!(state.len(), expected);

        let (again, again_buckets) = model(&golden, case, DType::F32);
        for (to, from) in again_buckets.iter().zip(buckets.iter()) {
            to.master.slice_set(&from.master, 0, 0).unwrap();
        }
        let mut resumed = Optimizer::new(&config, &again_buckets).unwrap();
        resumed.load_state(&again_buckets, optimizer.steps(), &state).unwrap();
        for s in 4..8 {
            step(&golden, case, s, &params, &buckets, &mut optimizer);
            step(&golden, case, s, &again, &again_buckets, &mut resumed);
            assert_eq!(masters(&buckets), masters(&again_buckets), "{which} step {s}");
        }
    }
}

#[test]
fn the_compute_copy_is_the_rounded_master() {
    let golden = golden();
    let case = &golden["adamw"];
    let (params, buckets) = model(&golden, case, DType::BF16);
    let mut optimizer = Optimizer::new(&config(OptimizerKind::Adamw, 0.0, 0.1), &buckets).unwrap();
    step(&golden, case, 0, &params, &buckets, &mut optimizer);
    for bucket in buckets.iter() {
        let want: Vec<half::bf16> = bucket.master.to_dtype(DType::BF16).unwrap().to_vec1().unwrap();
        assert_eq!(bucket.compute.as_ref().unwrap().to_vec1::<half::bf16>().unwrap(), want);
    }
    let before = tensor(&golden, "encoder.w", &case["initial"]["encoder.w"]).to_dtype(DType::BF16).unwrap();
    let seen = params.get("encoder.w").unwrap().tensor();
    let moved = (seen.to_dtype(DType::F32).unwrap() - before.to_dtype(DType::F32).unwrap()).unwrap();
    assert!(moved.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 0.0, "models see the new values");
}

#[test]
fn a_state_of_another_optimizer_or_model_is_an_error_and_changes_nothing() {
    let golden = golden();
    let (_, buckets) = model(&golden, &golden["adamw"], DType::F32);
    let mut adamw = Optimizer::new(&config(OptimizerKind::Adamw, 0.0, 0.1), &buckets).unwrap();
    let sgd = Optimizer::new(&config(OptimizerKind::Sgd, 0.9, 0.1), &buckets).unwrap();
    let ones = |state: Vec<(String, Tensor)>| -> Vec<(String, Tensor)> {
        state.into_iter().map(|(name, t)| (name, t.ones_like().unwrap())).collect()
    };
    let good = ones(adamw.state(&buckets).unwrap());
    let mut more = good.clone();
    more.push(("exp_avg.other".into(), good[0].1.clone()));
    let mut shape = good.clone();
    shape.last_mut().unwrap().1 = Tensor::ones((9, 9), DType::F32, &Device::Cpu).unwrap();
    let cases = [
        (ones(sgd.state(&buckets).unwrap()), "exp_avg.connector.scale is missing"),
        (more, "exp_avg.other belongs to no parameter here"),
        (shape, "has F32 [9, 9], needed is F32"),
    ];
    for (state, problem) in cases {
        let error = adamw.load_state(&buckets, 5, &state).unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("resume with"), "{error}");
    }
    assert_eq!(adamw.steps(), 0);
    for (_, t) in adamw.state(&buckets).unwrap() {
        assert_eq!(t.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }
    adamw.load_state(&buckets, 5, &good).unwrap();
    assert_eq!(adamw.steps(), 5);
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let golden = golden();
    let case = &golden["adamw"];
    let (params, buckets) = model(&golden, case, DType::F32);
    let mut optimizer = Optimizer::new(&config(OptimizerKind::Adamw, 0.0, 0.1), &buckets).unwrap();
    step(&golden, case, 0, &params, &buckets, &mut optimizer);
    let state = || optimizer.state(&buckets).unwrap().into_iter().map(|(_, t)| t.copy().unwrap()).collect::<Vec<_>>();
    let numbers = |state: &[Tensor]| -> Vec<Vec<f32>> {
        state.iter().map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let (before, moments) = (masters(&buckets), numbers(&state()));
    let bad = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
    buckets.get(1).grad.narrow(0, 0, 1).unwrap().slice_set(&bad, 0, 0).unwrap();
    let decision = optimizer.decide(&buckets).unwrap();
    optimizer.step(&buckets, 1.0, Decision::Made(&decision)).unwrap();
    assert_eq!((masters(&buckets), numbers(&state())), (before, moments));
    let decided = step_control::read(&decision).unwrap();
    optimizer.learn(&decided);
    assert!(!decided.go && decided.norm.is_nan());
    assert_eq!(optimizer.steps(), 1);
}
