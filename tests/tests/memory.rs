//! Memory does not grow with the number of steps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{SystemTime, UNIX_EPOCH};

use echat_tests::{Fixture, Running};

#[test]
fn resident_memory_is_flat_over_1000_steps() {
    let fixture = Fixture::new();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let sets = ["train.steps=1000", "train.log_every=5", "checkpoint.every_steps=100", "data.global_batch_seconds=1.2"];
    let args = fixture.train_args("stage1.toml", "run", &sets, &[]);
    // The allocator gives free pages back at once, so that what is resident is what is in use.
    Running::start_in_shell("export MIMALLOC_PURGE_DELAY=0", &args).wait().expect_success();
    let metrics = fixture.metrics("run");
    let mut resident: Vec<f64> = metrics.of("memory/resident_gib").into_iter().map(|(_, gib)| gib).collect();
    assert!(resident.len() > 200 && resident.iter().all(|gib| *gib > 0.0), "{resident:?}");
    // At the very end the loader has nothing more to hold.
    resident.truncate(resident.len() - 2);
    let third = resident.len() / 3;
    // Steps and the loader's lead differ in size from moment to moment; what leaks raises the least too.
    let least = |part: &[f64]| part.iter().copied().fold(f64::INFINITY, f64::min);
    let (second, last) = (least(&resident[third..2 * third]), least(&resident[2 * third..]));
    let after = |record: usize| metrics.of("wall")[record].1 - begun;
    println!("the first step was done after {:.2} s, all after {:.1} s", after(0), after(resident.len() - 1));
    println!("resident: {second:.4} GiB in the second third, {last:.4} GiB in the last");
    assert!(last <= 1.05 * second, "{second} GiB in the second third of the run, {last} GiB in the last");
}
