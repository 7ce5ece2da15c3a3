//! The code for GPUs, whole training steps of it, on GPUs that are none (`pretend-gpu/`): kernels are run as host C++, and everything that is put on a stream is done as
//! late as it may be, so that what does not wait for what it needs reads NaN.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use echat_tests::{Fixture, Metrics, Pretend, assert_close};

const CPU: &str = "dist.device=\"cpu\"";
const GPU: &str = "dist.device=\"cuda\"";

/// What the pretend driver wrote of a process at its end, by name.
fn left(report: &Path) -> Vec<Box<dyn Fn(&str) -> u64>> {
    let text = std::fs::read_to_string(report).unwrap();
    let line = |line: &str| -> Box<dyn Fn(&str) -> u64> {
        let words: Vec<(String, u64)> = line
            .split_whitespace()
            .map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap())
            .collect();
        Box::new(move |name| words.iter().find(|(known, _)| known == name).unwrap().1)
    };
    text.lines().map(line).collect()
}

fn trained(fixture: &Fixture, gpu: &Pretend, ranks: usize, config: &str, run: &str, sets: &[&str]) -> Metrics {
    let sets = [&[GPU, "checkpoint.every_steps=0", "validation.samples=0"], sets].concat();
    gpu.start(ranks, &fixture.train_args(config, run, &sets, &[])).wait().expect_success();
    fixture.metrics(run)
}

/// A stage's losses on the GPU are those on the CPU.
fn assert_as_on_cpu(fixture: &Fixture, config: &str, precision: &str, bound: f64) {
    let precision = format!("model.precision=\"{precision}\"");
    let (cpu, gpu) = (format!("{config}-{precision}-cpu"), format!("{config}-{precision}-gpu"));
    let report = fixture.path(&format!("{gpu}.report"));
    let pretend = Pretend::new().with("PRETEND_GPU_REPORT", report.display());
    let on_cpu = fixture.trained(1, config, &cpu, &[CPU, &precision, "checkpoint.every_steps=0", "validation.samples=0"]);
    let on_gpu = trained(fixture, &pretend, 1, config, &gpu, &[&precision]);
    for tag in ["train/loss", "train/grad_norm", "valid/loss"] {
        assert_close(&format!("{config}, {precision}, {tag}"), &on_cpu.of(tag), &on_gpu.of(tag), bound);
    }
    let of = &left(&report)[0];
    println!("{} kernels; {} allocations of {} bytes left", of("launches"), of("left"), of("left_bytes"));
    assert!(of("launches") > 1000 && of("fault") == 0);
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
fn two_ranks_by_nccl_and_several_that_share_a_gpu_have_the_losses_of_one() {
    let fixture = Fixture::new();
    let one = trained(&fixture, &Pretend::new(), 1, "stage1.toml", "one", &[]);
    let two = Pretend::new().with("PRETEND_GPUS", 2);
    for (ranks, gpus, sets) in [(2, &two, "dist.collective=\"auto\""), (3, &Pretend::new(), "dist.collective=\"mpi\"")] {
        let several = trained(&fixture, gpus, ranks, "stage1.toml", &format!("ranks-{ranks}"), &[sets]);
        for tag in ["train/loss", "valid/loss"] {
            assert_close(&format!("{tag}, {ranks} ranks"), &one.of(tag), &several.of(tag), 1e-5);
        }
    }
}

#[test]
fn a_resumed_run_is_bitwise_the_uninterrupted_one() {
    let fixture = Fixture::new();
    let gpus = Pretend::new().with("PRETEND_GPUS", 2);
    let train = |run: &str, steps: &str, more: &[&str]| {
        let sets = [GPU, "checkpoint.every_steps=5", steps];
        gpus.start(2, &fixture.train_args("stage1.toml", run, &sets, more)).wait().expect_success();
    };
    train("whole", "train.steps=12", &[]);
    train("halved", "train.steps=5", &[]);
    train("halved", "train.steps=12", &["--resume", "auto"]);
    assert_eq!(fixture.weights("whole", 12), fixture.weights("halved", 12));
}

#[test]
fn evaluation_and_generation_are_those_of_the_cpu() {
    let fixture = with_stage_1();
    let said = |pretend: Option<&Pretend>, args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| fixture.fill(arg)).collect();
        let running = match pretend {
            Some(gpu) => gpu.start(1, &args),
            None => echat_tests::Running::start(1, &args),
        };
        running.wait().expect_success().stdout
    };
    let gpu = Pretend::new();
    let eval = |device: &str| {
        let json = format!("{{root}}/{device}.json");
        let args = ["eval", "--checkpoint", "{root}/stage1", "--max-new-tokens", "8", "--json", &json];
        said((device == "gpu").then_some(&gpu), &args);
        let text = std::fs::read_to_string(fixture.path(&format!("{device}.json"))).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["figures"].clone()
    };
    let (cpu, on_gpu) = (eval("cpu"), eval("gpu"));
    assert_eq!(cpu["cer"], on_gpu["cer"]);
    let loss = |figures: &serde_json::Value| vec![(0, figures["decoder_loss"].as_f64().unwrap())];
    assert_close("loss", &loss(&cpu), &loss(&on_gpu), 1e-4);
    let chat = ["chat", "--checkpoint", "{root}/stage1", "--set", "generation.max_new_tokens=8", "{root}/audio/valid-0.wav"];
    assert_eq!(said(None, &chat), said(Some(&gpu), &chat));
}

#[test]
fn a_gpu_is_checked() {
    let outcome = Pretend::new().start(1, &["gpu-check".to_owned(), "--quick".to_owned()]).wait().expect_success();
    outcome.expect_said(&["Pretend GPU, compute capability 9.0, 4 GiB"]);
    outcome.expect_said(&["ok", "NCCL 2.28.9: sums of one rank"]);
    outcome.expect_said(&["all checks hold"]);
}
