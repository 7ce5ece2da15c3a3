//! Memory does not grow with the number of steps: counted, in the bytes that are allocated and not freed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use echat::cli::{self, Cli};
use echat_tests::Fixture;

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STEPS: usize = 1000;

/// Bytes alive every tenth of a millisecond while `run` runs.
fn watch(run: impl FnOnce()) -> Vec<i64> {
    let running = AtomicBool::new(true);
    let mut samples = Vec::with_capacity(1 << 21);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Relaxed) && samples.len() < samples.capacity() {
                samples.push(LIVE.load(Relaxed));
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        run();
        running.store(false, Relaxed);
    });
    samples
}

#[test]
fn no_step_leaves_anything_behind() {
    let fixture = Fixture::new();
    let steps = format!("train.steps={STEPS}");
    let sets = [&steps, "train.log_every=5", "checkpoint.every_steps=100", "data.global_batch_seconds=1.2"];
    let args = fixture.train_args("stage1.toml", "run", &sets, &[]);
    let samples = watch(|| cli::run(Cli::parse_from(std::iter::once("echat".to_owned()).chain(args))).unwrap());
    assert!(samples.len() > STEPS, "{} samples", samples.len());
    // Between steps and with the loader's queue at its shortest; what is left behind raises this too.
    let third = samples.len() / 3;
    let least = |part: &[i64]| part.iter().copied().min().unwrap();
    let (second, last) = (least(&samples[third..2 * third]), least(&samples[2 * third..3 * third - third / 20]));
    let grown = (last - second) as f64 / (STEPS / 3) as f64;
    println!("alive: {second} bytes in the second third, {last} in the last: {grown:.0} bytes a step");
    assert!(second > 100_000, "{second} bytes for model, optimizer and corpus: is anything counted?");
    // What the loader holds differs by about as much as a batch; the least activation left behind would be more a step.
    assert!(grown < 1024.0, "{grown:.0} bytes more per step");
}
