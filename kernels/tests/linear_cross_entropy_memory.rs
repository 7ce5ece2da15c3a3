//! The whole logits never exist: the process's peak memory says so. Alone in its file, as the peak is the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::random;
use echat_kernels::linear_cross_entropy::{Needs, chunk_rows, forward};

/// The most resident memory this process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn peak_memory_is_a_chunk_of_logits_not_all_of_them() {
    let (t, v, d) = (2000, 60_000, 8);
    let (hidden, weight) = (random(1, &[t, d]), random(2, &[v, d]));
    let rows: Vec<u32> = (0..t as u32).collect();
    let before = peak();
    let loss = forward(&hidden, &weight, &rows, &rows, Needs { hidden: true, weight: true }).unwrap();
    let grown = peak() - before;
    assert!(loss.sums.to_vec1::<f64>().unwrap()[0].is_finite());
    // One chunk of logits, the weight's gradient, and room for the allocator and the threads.
    let (chunk, gradient) = (4 * chunk_rows(v) * v, 4 * v * d);
    assert!(grown <= 2 * (chunk + gradient), "{grown} bytes more at the peak");
    assert!(2 * (chunk + gradient) * 10 <= 4 * t * v, "the case is too small to tell");
}
