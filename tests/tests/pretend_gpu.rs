//! The code for GPUs, whole training steps of it, on GPUs that are none (`pretend-gpu/`): kernels are run as host C++, and everything that is put on a stream is done as
//! late as it may be, so that what does not wait for what it needs reads NaN.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use echat_tests::{Fixture, Metrics, Pretend, assert_close};
use serde_json::Value;

const CPU: &str = "dist.device=\"cpu\"";
const GPU: &str = "dist.device=\"cuda\"";
const SHORT: [&str; 3] = ["train.steps=5", "checkpoint.every_steps=0", "validation.samples=0"];

/// What the pretend driver wrote of a process at its end, by name.
fn left(report: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(report).unwrap();
    let words = text.split_whitespace().map(|word| word.split_once('=').unwrap());
    words.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

fn trained(fixture: &Fixture, gpu: &Pretend, config: &str, run: &str, sets: &[&str]) -> Metrics {
    let sets = [&[GPU], &SHORT[..], sets].concat();
    gpu.start(1, &fixture.train_args(config, run, &sets, &[])).wait().expect_success();
    fixture.metrics(run)
}

/// A stage's losses on the GPU are those on the CPU.
fn assert_as_on_cpu(fixture: &Fixture, config: &str, precision: &str, bound: f64) {
    let (cpu, gpu) = (format!("{config}-{precision}-cpu"), format!("{config}-{precision}-gpu"));
    let precision = format!("model.precision=\"{precision}\"");
    let report = fixture.path(&format!("{gpu}.report"));
    let pretend = Pretend::new().with("PRETEND_GPU_REPORT", report.display());
    let on_cpu = fixture.trained(1, config, &cpu, &[&[CPU, &precision], &SHORT[..]].concat());
    let on_gpu = trained(fixture, &pretend, config, &gpu, &[&precision]);
    for tag in ["train/loss", "optim/grad_norm", "valid/loss"] {
        assert_close(&format!("{config}, {precision}, {tag}"), &on_cpu.of(tag), &on_gpu.of(tag), bound);
    }
    let left = left(&report);
    let of = |name: &str| left[name];
    println!("{} kernels; {} allocations of {} bytes left", of("launches"), of("left"), of("left_bytes"));
    assert!(of("launches") > 1000 && of("fault") == 0);
    // The scratch of products, which lives as long as the process.
    assert_eq!(of("left"), 1);
}

/// Stage 2 begins where stage 1 ended.
fn with_stage_1() -> Fixture {
    let fixture = Fixture::new();
    fixture.trained(1, "stage1.toml", "stage1", &[CPU]);
    fixture
}

#[test]
fn both_stages_in_f32_have_the_losses_of_the_cpu() {
    let fixture = with_stage_1();
    assert_as_on_cpu(&fixture, "stage1.toml", "f32", 1e-4);
    assert_as_on_cpu(&fixture, "stage2.toml", "f32", 1e-4);
}

#[test]
fn both_stages_in_bf16_have_the_losses_of_the_cpu() {
    let fixture = with_stage_1();
    assert_as_on_cpu(&fixture, "stage1.toml", "bf16", 8e-3);
    assert_as_on_cpu(&fixture, "stage2.toml", "bf16", 8e-3);
}

#[test]
fn a_resumed_run_is_bitwise_the_uninterrupted_one() {
    let fixture = Fixture::new();
    let gpus = Pretend::new().with("PRETEND_GPUS", 2);
    let train = |run: &str, steps: &str, more: &[&str]| {
        let sets = [GPU, "checkpoint.every_steps=3", steps];
        gpus.start(2, &fixture.train_args("stage1.toml", run, &sets, more)).wait().expect_success();
    };
    train("whole", "train.steps=6", &[]);
    train("halved", "train.steps=3", &[]);
    train("halved", "train.steps=6", &["--resume", "auto"]);
    assert_eq!(fixture.weights("whole", 6), fixture.weights("halved", 6));
}

#[test]
fn evaluation_and_generation_are_those_of_the_cpu() {
    let fixture = with_stage_1();
    let gpu = Pretend::new();
    let said = |device: &str, args: &[&str]| {
        let args = [args, &["--set", device]].concat();
        let args: Vec<String> = args.iter().map(|arg| fixture.fill(arg)).collect();
        gpu.start(1, &args).wait().expect_success().stdout
    };
    let eval = |device: &str| {
        let args = ["eval", "--checkpoint", "{root}/stage1", "--max-new-tokens", "8", "--json", "{root}/eval.json"];
        said(device, &args);
        let text = std::fs::read_to_string(fixture.path("eval.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["figures"].clone()
    };
    let (on_cpu, on_gpu) = (eval(CPU), eval(GPU));
    assert_eq!(on_cpu["cer"], on_gpu["cer"]);
    let loss = |figures: &Value| vec![(0, figures["decoder_loss"].as_f64().unwrap())];
    assert_close("loss", &loss(&on_cpu), &loss(&on_gpu), 1e-5);
    let (checkpoint, wav) = ("{root}/stage1", "{root}/audio/valid-0.wav");
    let chat = ["chat", "--checkpoint", checkpoint, "--set", "generation.max_new_tokens=8", wav];
    assert_eq!(said(CPU, &chat), said(GPU, &chat));
}

#[test]
fn a_gpu_is_checked() {
    let outcome = Pretend::new().start(1, &["gpu-check".to_owned(), "--quick".to_owned()]).wait().expect_success();
    outcome.expect_said(&["Pretend GPU, compute capability 9.0, 4 GiB"]);
    outcome.expect_said(&["ok", "NCCL 2.28.9: sums of one rank"]);
    outcome.expect_said(&["all checks hold"]);
}
