//! On GPUs too the number of ranks changes nothing but the order of additions, whoever sums: the hosts, where ranks share a GPU, or NCCL,
//! where each has its own.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use echat_tests::{Fixture, Metrics, assert_close};

/// How many GPUs the driver knows.
fn gpus() -> usize {
    let list = Command::new("nvidia-smi").arg("-L").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&list).lines().filter(|line| line.starts_with("GPU ")).count()
}

/// Whether there are `wanted`; says so if not.
fn has_gpus(wanted: usize) -> bool {
    let enough = gpus() >= wanted;
    if !enough {
        println!("not run: no {}", if wanted == 1 { "GPU" } else { "second GPU" });
    }
    enough
}

const CUDA: &str = "dist.device=\"cuda\"";
const MPI: &str = "dist.collective=\"mpi\"";
const NCCL: &str = "dist.collective=\"nccl\"";

fn trained(fixture: &Fixture, ranks: usize, run: &str, collective: &str) -> Metrics {
    let sets = [CUDA, collective, "train.steps=6", "checkpoint.every_steps=0", "validation.samples=0"];
    fixture.trained(ranks, "stage1.toml", run, &sets)
}

fn assert_same(one: &Metrics, several: &Metrics) {
    assert_eq!(one.of("batch/utterances"), several.of("batch/utterances"));
    assert_close("training loss", &one.of("train/loss"), &several.of("train/loss"), 1e-5);
    assert_close("validation loss", &one.of("valid/loss"), &several.of("valid/loss"), 1e-5);
}

#[test]
fn ranks_that_share_a_gpu_have_the_losses_of_one() {
    if !has_gpus(1) {
        return;
    }
    let fixture = Fixture::new();
    let one = trained(&fixture, 1, "ranks-1", MPI);
    for ranks in [2, 3] {
        assert_same(&one, &trained(&fixture, ranks, &format!("ranks-{ranks}"), MPI));
    }
}

#[test]
fn one_rank_has_the_same_losses_with_nccl() {
    if !has_gpus(1) {
        return;
    }
    let fixture = Fixture::new();
    let (without, with) = (trained(&fixture, 1, "without", MPI), trained(&fixture, 1, "with", NCCL));
    assert_same(&without, &with);
}

#[test]
fn ranks_with_gpus_of_their_own_have_the_losses_of_one() {
    if !has_gpus(2) {
        return;
    }
    let fixture = Fixture::new();
    let (one, two) = (trained(&fixture, 1, "ranks-1", MPI), trained(&fixture, 2, "ranks-2", NCCL));
    assert_same(&one, &two);
    let waited = two.of("speed/comm_wait");
    assert!(waited.iter().any(|(_, share)| *share > 0.0) && waited.iter().all(|(_, share)| *share < 1.0), "{waited:?}");
}

#[test]
fn more_ranks_than_gpus_are_explained() {
    if !has_gpus(1) || gpus() > 2 {
        return;
    }
    let fixture = Fixture::new();
    let outcome = fixture.train(3, "stage1.toml", "run", &[CUDA, NCCL], &[]);
    outcome.expect_error(&["GPU", "mpirun --npernode", "dist.collective = \"mpi\" lets ranks share one"]);
}
