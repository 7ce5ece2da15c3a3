//! What is wrong with a GPU, its driver, its libraries or the ranks beside it is one line that says what and what to do; and what was saved stays good. On GPUs that
//! are none (`pretend-gpu/`).
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use echat_tests::{Fixture, Outcome, Pretend, signal};

const GPU: &str = "dist.device=\"cuda\"";
const TIMEOUT: &str = "dist.timeout_seconds=2";
/// Nothing here waits this long.
const LIMIT: Duration = Duration::from_secs(60);

fn train(fixture: &Fixture, gpus: &Pretend, ranks: usize, sets: &[&str]) -> Outcome {
    let sets = [&[GPU, "validation.samples=0"], sets].concat();
    gpus.start(ranks, &fixture.train_args("stage1.toml", "run", &sets, &[])).wait_for(LIMIT)
}

/// Training is refused with exit code 1 and one line that has all `parts`.
fn expect_refused(gpus: &Pretend, ranks: usize, sets: &[&str], parts: &[&str]) {
    let outcome = train(&Fixture::new(), gpus, ranks, sets);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.expect_error(parts);
}

#[test]
fn no_driver() {
    expect_refused(&Pretend::without("libcuda.so"), 1, &[], &["no GPU", "libcuda.so.1", "dist.device = \"cpu\""]);
    let outcome = Pretend::without("libcuda.so").start(1, &["gpu-check".to_owned()]).wait();
    outcome.expect_error(&["no GPU", "NVIDIA's driver (libcuda.so.1) is not on this machine"]);
}

#[test]
fn without_a_gpu_the_cpu_is_taken_where_either_will_do() {
    let fixture = Fixture::new();
    let gpus = Pretend::new().with("PRETEND_GPUS", 0);
    let sets = ["train.steps=1", "checkpoint.every_steps=0", "validation.samples=0"];
    gpus.start(1, &fixture.train_args("stage1.toml", "run", &sets, &[])).wait().expect_success();
}

#[test]
fn no_gpu() {
    let gpus = Pretend::new().with("PRETEND_GPUS", 0);
    expect_refused(&gpus, 1, &[], &["no GPU", "NVIDIA's driver sees none", "CUDA_VISIBLE_DEVICES"]);
}

#[test]
fn a_driver_that_is_too_old() {
    let gpus = Pretend::new().with("PRETEND_GPU_DRIVER", 12040);
    expect_refused(&gpus, 1, &[], &["driver is too old", "CUDA 12.4", "CUDA 13.0", "docs/cuda.md"]);
}

#[test]
fn a_gpu_that_is_too_old() {
    let gpus = Pretend::new().with("PRETEND_GPU_CAPABILITY", "7.5").with("PRETEND_GPU_NAMES", "Tesla T4");
    expect_refused(&gpus, 1, &[], &["Tesla T4", "compute capability 7.5", "8.0 (A100) or newer"]);
}

#[test]
fn a_library_that_is_missing() {
    for (file, name) in [("libcublas.so", "cuBLAS"), ("libcublasLt", "cuBLASLt"), ("libcurand", "cuRAND")] {
        expect_refused(
            &Pretend::without(file),
            1,
            &[],
            &[&format!("{name} is missing"), "LD_LIBRARY_PATH", "pip: nvidia-"],
        );
    }
    expect_refused(&Pretend::without("libnvrtc"), 1, &[], &["libnvrtc", "pip: nvidia-cuda-nvrtc"]);
}

#[test]
fn nccl_that_is_missing() {
    let gpus = Pretend::without("libnccl").with("PRETEND_GPUS", 2);
    expect_refused(&gpus, 2, &[], &["NCCL is missing", "pip: nvidia-nccl-cu13", "dist.collective = \"mpi\""]);
}

#[test]
fn memory_that_is_full() {
    let gpus = Pretend::new().with("PRETEND_GPU_MEMORY", 34);
    let parts = [
        "out of memory: [",
        " MiB, do not fit on the GPU",
        "of 34.0 MiB are taken",
        "`echat plan` foretells 0.07 GiB (weights ",
        "data.micro_batch_seconds",
        "recompute",
    ];
    expect_refused(&gpus, 1, &[], &parts);
}

#[test]
fn memory_that_forgets_ends_a_run_that_goes_on_from_its_last_checkpoint() {
    let fixture = Fixture::new();
    let sets = ["checkpoint.every_steps=3", "train.steps=6"];
    let outcome = train(&fixture, &Pretend::new().with("PRETEND_GPU_FAULT", "214@4500"), 1, &sets);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.expect_error(&["the GPU failed", "CUDA_ERROR_ECC_UNCORRECTABLE", "Xid"]);
    assert!(fixture.checkpoint("run", 3).exists() && !fixture.checkpoint("run", 6).exists());
    let sets = [&[GPU, "validation.samples=0"], &sets[..]].concat();
    for (run, more) in [("run", &["--resume", "auto"][..]), ("whole", &[])] {
        Pretend::new().start(1, &fixture.train_args("stage1.toml", run, &sets, more)).wait().expect_success();
    }
    assert_eq!(fixture.weights("whole", 6), fixture.weights("run", 6));
}

#[test]
fn a_kernel_that_reads_where_nothing_is() {
    let gpus = Pretend::new().with("PRETEND_GPU_FAULT", "700@2000");
    expect_refused(&gpus, 1, &[], &["the GPU failed", "CUDA_ERROR_ILLEGAL_ADDRESS", "Xid"]);
}

#[test]
fn two_ranks_on_one_gpu() {
    let parts =
        ["rank 0 and rank 1", "have the same GPU (Pretend GPU)", "mpirun --npernode", "dist.collective = \"mpi\""];
    expect_refused(&Pretend::new(), 2, &[], &parts);
    expect_refused(&Pretend::new().with("PRETEND_GPUS", 2), 3, &[], &["3 ranks and 2 GPUs", "mpirun --npernode 2"]);
}

#[test]
fn gpus_of_two_models_are_a_warning() {
    let gpus = Pretend::new().with("PRETEND_GPUS", 2).with("PRETEND_GPU_NAMES", "H100,A100");
    let outcome = train(&Fixture::new(), &gpus, 2, &["train.steps=2", "checkpoint.every_steps=0"]).expect_success();
    outcome.expect_said(&["warning: GPUs of different models", "A100 on ", "H100 on "]);
}

#[test]
fn a_peer_that_never_comes() {
    let gpus = Pretend::new().with("PRETEND_GPUS", 2).with("PRETEND_NCCL_ABSENT", 1);
    expect_refused(&gpus, 2, &[TIMEOUT], &["waited", "connecting", "dist.timeout_seconds"]);
}

#[test]
fn a_communicator_that_fails() {
    let gpus = Pretend::new().with("PRETEND_GPUS", 2).with("PRETEND_NCCL_FAULT", "6@3");
    expect_refused(&gpus, 2, &[TIMEOUT], &["NCCL", "remote process exited", "as PRETEND_NCCL_FAULT says"]);
}

#[test]
fn a_gpu_that_fails_beside_others() {
    let gpus = Pretend::new().with("PRETEND_GPUS", 2).with("PRETEND_GPU_FAULT", "214@2000:1");
    expect_refused(&gpus, 2, &[TIMEOUT], &["rank 1 on ", "CUDA_ERROR_ECC_UNCORRECTABLE"]);
}

/// Stops rank 1 in the middle of training.
fn stopped(name: &str) -> Outcome {
    let fixture = Fixture::new();
    let gpus = Pretend::new().with("PRETEND_GPUS", 2);
    let sets = [GPU, TIMEOUT, "train.steps=100000", "checkpoint.every_steps=0", "validation.samples=0"];
    let mut running = gpus.start(2, &fixture.train_args("stage1.toml", "run", &sets, &[]));
    let metrics = fixture.path("run/metrics.jsonl");
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 3 {
        assert!(!running.has_ended(), "it ended: {:?}", running.wait());
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = running.rank(1).unwrap();
    signal(name, pid);
    let outcome = running.wait_for(LIMIT);
    signal("KILL", pid);
    outcome
}

#[test]
fn a_peer_that_hangs_is_named() {
    stopped("STOP").expect_error(&["rank 0 on ", "waited", "for rank 1 on "]);
}

#[test]
fn a_peer_that_dies_is_named() {
    let outcome = stopped("KILL");
    assert!(outcome.code != Some(0), "{outcome:?}");
    let said = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("process rank 1") && said.contains("signal 9"), "{said}");
}
