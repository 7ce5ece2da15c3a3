//! The whole logits never exist: the bytes allocated and not freed say so. Alone in its file, as the
//! allocator is the process's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{at_threads, random};
use echat_kernels::linear_cross_entropy::{Needs, chunk_rows, forward};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that matrix products may copy operands into, whatever the operands' sizes.
const SCRATCH: usize = 4 << 20;

#[test]
fn peak_memory_is_a_chunk_of_logits_not_all_of_them() {
    let (t, v, d) = (2000, 60_000, 8);
    let (hidden, weight) = (random(1, &[t, d]), random(2, &[v, d]));
    let rows: Vec<u32> = (0..t as u32).collect();
    let needs = Needs { hidden: true, weight: true };
    let (chunk, gradient) = (4 * chunk_rows(v) * v, 4 * v * d);
    for threads in [1, 2, 3] {
        let grown = at_threads(threads, || {
            let before = LIVE.load(Relaxed);
            PEAK.store(before, Relaxed);
            let loss = forward(&hidden, &weight, &rows, &rows, needs).unwrap();
            assert!(loss.sums.to_vec1::<f64>().unwrap()[0].is_finite());
            PEAK.load(Relaxed) - before
        });
        println!("{threads} threads: {grown} bytes, a chunk is {chunk}, the gradient {gradient}");
        assert!(grown >= chunk + gradient, "{grown} bytes: not what this test is about");
        assert!(grown <= chunk + gradient + SCRATCH, "{threads} threads: {grown} bytes at the peak");
    }
    assert!(10 * (chunk + gradient + SCRATCH) <= 4 * t * v, "the case is too small to tell");
}
