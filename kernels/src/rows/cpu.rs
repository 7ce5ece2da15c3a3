//! Rows moved about on the CPU.

use crate::SeqLens;
use crate::parallel::{for_rows, for_sequences, map, piece_rows, sum_pieces};

/// Rows `index` (source, row) of `sources`, all of width `d`.
pub fn gather(sources: &[&[f32]], index: &[(u32, u32)], d: usize) -> Vec<f32> {
    let mut out = vec![0.0; index.len() * d];
    for_rows(&mut out, d, piece_rows(d), |first, out| {
        for (out, &(source, row)) in out.chunks_exact_mut(d).zip(&index[first..]) {
            out.copy_from_slice(&sources[source as usize][row as usize * d..][..d]);
        }
    });
    out
}

/// `[rows, d]`: for each `(target, row)` of `targets`, row `row` of `grad` added to row `target`, in the order of `targets`.
pub fn scatter_add(grad: &[f32], mut targets: Vec<(usize, usize)>, d: usize, rows: usize) -> Vec<f32> {
    // Stable: what falls on one row stays in order.
    targets.sort_by_key(|(target, _)| *target);
    let mut out = vec![0.0; rows * d];
    let piece = piece_rows(d);
    for_rows(&mut out, d, piece, |first, out| {
        let begin = targets.partition_point(|(target, _)| *target < first);
        for &(target, row) in targets[begin..].iter().take_while(|(target, _)| *target < first + piece) {
            let sum = &mut out[(target - first) * d..][..d];
            sum.iter_mut().zip(&grad[row * d..][..d]).for_each(|(s, &g)| *s += g);
        }
    });
    out
}

/// `x` with the rows marked in `replaced` overwritten by `with`.
pub fn replace(x: &[f32], replaced: &[bool], with: &[f32]) -> Vec<f32> {
    let d = with.len();
    let mut out = x.to_vec();
    for_rows(&mut out, d, piece_rows(d), |first, out| {
        for (out, _) in out.chunks_exact_mut(d).zip(&replaced[first..]).filter(|(_, replaced)| **replaced) {
            out.copy_from_slice(with);
        }
    });
    out
}

/// `(dx, dwith)`: `grad` without the marked rows, and their sum.
pub fn replace_backward(grad: &[f32], replaced: &[bool], d: usize) -> (Vec<f32>, Vec<f32>) {
    let dx = replace(grad, replaced, &vec![0.0; d]);
    let piece = piece_rows(d);
    let sums = map(replaced.len().div_ceil(piece), grad.len(), |i| {
        let mut sum = vec![0.0; d];
        for row in (i * piece..replaced.len().min((i + 1) * piece)).filter(|row| replaced[*row]) {
            sum.iter_mut().zip(&grad[row * d..][..d]).for_each(|(s, &g)| *s += g);
        }
        sum
    });
    (dx, sum_pieces(&sums, d))
}

/// `x`, rows of width `d`, with `columns[i]` of sequence `i` set to zero.
pub fn zero_columns(x: &[f32], seq: &SeqLens, columns: &[Vec<u32>], d: usize) -> Vec<f32> {
    let mut out = x.to_vec();
    for_sequences(&mut out, seq, d, |i, out| {
        for row in out.chunks_exact_mut(d) {
            columns[i].iter().for_each(|&column| row[column as usize] = 0.0);
        }
    });
    out
}
