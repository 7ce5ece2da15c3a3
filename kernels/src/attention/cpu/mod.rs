//! One task is some queries of one head of one sequence (forward) or one key head of one sequence (backward): nothing is
//! shared between tasks, so a sequence's result depends neither on the threads nor on its neighbours.
//!
//! Scores are held transposed, keys as rows and queries as columns: a vector is then 16 queries at one key, and the
//! softmax needs no sum across lanes.

mod backward;
mod forward;
mod product;
mod single;

use std::cell::RefCell;
use std::ops::Range;

pub use backward::{Saved, backward};
pub use forward::forward;

use super::Attention;
use crate::simd::LANES;
use crate::{rng, simd};

/// Queries in a tile of scores.
const TILE_Q: usize = 64;
/// Keys in a tile of scores.
const TILE_K: usize = 128;

/// A thread's buffers, kept from task to task.
#[derive(Default)]
struct Scratch {
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
    q_columns: Vec<f32>,
    grad: Vec<f32>,
    grad_columns: Vec<f32>,
    scores: Vec<f32>,
    d_scores: Vec<f32>,
    out: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());
    SCRATCH.with_borrow_mut(f)
}

/// The first `len` elements of `buffer`, whatever they are.
fn take(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// A head's width in memory: whole vectors.
fn padded(dh: usize) -> usize {
    dh.next_multiple_of(LANES)
}

/// Head `head` of rows `rows` of `x` [t, heads, dh], times `scale`, as [rows, padded dh].
fn gather<'a>(
    buffer: &'a mut Vec<f32>,
    x: &[f32],
    rows: Range<usize>,
    (head, heads, dh): (usize, usize, usize),
    scale: f32,
) -> &'a mut [f32] {
    let wide = padded(dh);
    let packed = take(buffer, rows.len() * wide);
    simd::run(
        #[inline(always)]
        || {
            for (row, out) in rows.zip(packed.chunks_exact_mut(wide)) {
                for (out, x) in out.iter_mut().zip(&x[(row * heads + head) * dh..][..dh]) {
                    *out = x * scale;
                }
                out[dh..].fill(0.0);
            }
        },
    );
    packed
}

/// The transpose of gathered rows as [dh, padded rows].
fn transpose<'a>(buffer: &'a mut Vec<f32>, rows: &[f32], dh: usize) -> &'a mut [f32] {
    let wide = padded(dh);
    let count = rows.len() / wide;
    let columns = padded(count);
    let out = take(buffer, dh * columns);
    for to in out.chunks_exact_mut(columns) {
        to[count..].fill(0.0);
    }
    for (i, row) in rows.chunks_exact(wide).enumerate() {
        for (to, x) in out.chunks_exact_mut(columns).zip(row) {
            to[i] = *x;
        }
    }
    out
}

/// The rows of each head of each piece of `out` [t, heads, dh], piece `i` being the next `rows[i]` rows: piece-major.
fn by_head(out: &mut [f32], heads: usize, dh: usize, rows: impl Iterator<Item = usize>) -> Vec<Vec<&mut [f32]>> {
    let mut parts = Vec::new();
    let mut vectors = out.chunks_exact_mut(dh);
    for rows in rows {
        let first = parts.len();
        parts.extend((0..heads).map(|_| Vec::with_capacity(rows)));
        for _ in 0..rows {
            for (part, vector) in parts[first..].iter_mut().zip(&mut vectors) {
                part.push(vector);
            }
        }
    }
    parts
}

/// Writes gathered rows, times `scale`, where they belong.
fn scatter(rows: &[f32], scale: f32, out: &mut [&mut [f32]]) {
    let Some(dh) = out.first().map(|row| row.len()) else {
        return;
    };
    simd::run(
        #[inline(always)]
        || {
            for (out, row) in out.iter_mut().zip(rows.chunks_exact(padded(dh))) {
                for (out, x) in out.iter_mut().zip(row) {
                    *out = x * scale;
                }
            }
        },
    );
}

/// One sequence seen by one of its query heads.
#[derive(Clone, Copy)]
struct View<'a> {
    args: &'a Attention<'a>,
    sequence: usize,
    head: usize,
    lq: usize,
    lk: usize,
}

impl<'a> View<'a> {
    fn new(args: &'a Attention<'a>, sequence: usize, head: usize) -> Self {
        let (lq, lk) = (args.q_seq.len_of(sequence), args.k_seq.len_of(sequence));
        Self { args, sequence, head, lq, lk }
    }

    /// How many keys query `i` sees: the first so many.
    fn seen(&self, i: usize) -> usize {
        if self.args.causal { (i + 1 + self.lk).saturating_sub(self.lq).min(self.lk) } else { self.lk }
    }

    /// Where the diagonal runs in the tile of queries from `q0` and `len_k` keys from `k0`: the tile's key `j` is seen by
    /// its queries from `j + shift` on. `None` if every query sees every key.
    fn shift(&self, q0: usize, k0: usize, len_k: usize) -> Option<isize> {
        let shift = k0 as isize + self.lq as isize - self.lk as isize - q0 as isize;
        (self.args.causal && shift + len_k as isize > 1).then_some(shift)
    }

    /// The mask of the tile of queries from `q0`, if probabilities are dropped.
    fn mask(&self, q0: usize) -> Option<Mask> {
        let dropout = self.args.dropout.filter(|dropout| dropout.p > 0.0)?;
        let stream = rng::key(dropout.streams[self.sequence], self.head as u64);
        let mut rows = [0; TILE_Q];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = rng::row(stream, (q0 + i) as u64);
        }
        Some(Mask { rows, threshold: rng::threshold(dropout.p), scale: 1.0 / (1.0 - dropout.p) })
    }
}

/// Dropout of a tile of scores.
struct Mask {
    /// The key of each query's row.
    rows: [u32; TILE_Q],
    threshold: u32,
    scale: f32,
}

impl Mask {
    /// What the probabilities of the 16 queries from `16 * block` at key `j` are multiplied by.
    #[inline(always)]
    fn factors(&self, block: usize, j: u32) -> [f32; LANES] {
        let rows = &self.rows.as_chunks::<LANES>().0[block];
        let mut factors = [0.0; LANES];
        for (factor, row) in factors.iter_mut().zip(rows) {
            *factor = if rng::bits(*row, j) < self.threshold { 0.0 } else { self.scale };
        }
        factors
    }
}

/// Sets what a tile's queries do not see, as given by the diagonal, to `value`.
fn fill_unseen(tile: &mut [f32], columns: usize, shift: Option<isize>, value: f32) {
    if let Some(shift) = shift {
        for (j, row) in tile.chunks_exact_mut(columns).enumerate() {
            row[..(j as isize + shift).clamp(0, columns as isize) as usize].fill(value);
        }
    }
}
