//! Splitting work over threads so that no result depends on how many there are.
//!
//! Work is cut into pieces by sizes alone, each piece is computed by one thread, and partial sums are combined in the
//! order of the pieces.

use rayon::prelude::*;

use crate::SeqLens;

/// Below this many elements a job runs on the calling thread: waking the pool costs more than it saves.
pub const SERIAL_BELOW: usize = 16 * 1024;

/// Calls `f(first_row, rows)` on pieces of `rows_per_piece` rows of `out` (each row `width` long).
pub fn for_rows<T: Send>(out: &mut [T], width: usize, rows_per_piece: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let work = out.len();
    for_rows_with_work(out, width, rows_per_piece, work, f);
}

/// Like [`for_rows`], for a job whose size in elements is `work` rather than what it writes.
pub fn for_rows_with_work<T: Send>(
    out: &mut [T],
    width: usize,
    rows_per_piece: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if width == 0 || out.is_empty() {
        return;
    }
    let piece = rows_per_piece.max(1) * width;
    if work < SERIAL_BELOW || out.len() <= piece || rayon::current_num_threads() == 1 {
        for (i, rows) in out.chunks_mut(piece).enumerate() {
            f(i * rows_per_piece.max(1), rows);
        }
    } else {
        out.par_chunks_mut(piece).enumerate().for_each(|(i, rows)| f(i * rows_per_piece.max(1), rows));
    }
}

/// Maps `f` over `0..pieces` and returns the results in order. `work` is the job's size in elements.
pub fn map<R: Send>(pieces: usize, work: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if pieces <= 1 || work < SERIAL_BELOW || rayon::current_num_threads() == 1 {
        (0..pieces).map(f).collect()
    } else {
        (0..pieces).into_par_iter().map(f).collect()
    }
}

/// Calls `f(index, item)` on every item: slices of several outputs cut in step, say. `work` is the job's size in elements.
pub fn for_each<I: Send>(items: Vec<I>, work: usize, f: impl Fn(usize, I) + Sync + Send) {
    map_each(items, work, f);
}

/// Calls `f(sequence, rows)` on each sequence's rows of the packed `out`, each row `width` long.
pub fn for_sequences<T: Send>(out: &mut [T], seq: &SeqLens, width: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let work = out.len();
    let mut rest = out;
    let mut pieces = Vec::with_capacity(seq.count());
    for len in seq.lens() {
        let (rows, after) = rest.split_at_mut(len * width);
        pieces.push(rows);
        rest = after;
    }
    for_each(pieces, work, f);
}

/// Like [`map`], over `items` that each piece owns, such as disjoint slices to write. `f` gets the item's number.
pub fn map_each<T: Send, R: Send>(items: Vec<T>, work: usize, f: impl Fn(usize, T) -> R + Sync + Send) -> Vec<R> {
    if items.len() <= 1 || work < SERIAL_BELOW || rayon::current_num_threads() == 1 {
        items.into_iter().enumerate().map(|(i, item)| f(i, item)).collect()
    } else {
        items.into_par_iter().enumerate().map(|(i, item)| f(i, item)).collect()
    }
}

/// Rows per piece for rows of `width` elements: about 16 Ki elements, so that a piece stays in cache and is worth
/// handing out, and at most 128 rows, so that an f32 sum down a column stays short.
pub fn piece_rows(width: usize) -> usize {
    (SERIAL_BELOW / width.max(1)).clamp(1, 128)
}

/// The element-wise sum of the pieces' vectors of length `width`, in order, accumulated in f64.
pub fn sum_pieces(pieces: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for piece in pieces {
        for (s, &x) in sum.iter_mut().zip(piece) {
            *s += f64::from(x);
        }
    }
    sum.into_iter().map(|s| s as f32).collect()
}
