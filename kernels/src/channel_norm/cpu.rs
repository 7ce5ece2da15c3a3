//! Channel norm on the CPU: pieces of rows of one sequence, counted from its first row, so that a sequence's result does
//! not depend on its neighbours.

use std::ops::Range;

use crate::SeqLens;
use crate::parallel::{for_each, map, piece_rows};
use crate::simd::run;

/// A sequence and the rows of a piece of it.
type Piece = (usize, Range<usize>);

fn pieces(seq: &SeqLens, c: usize) -> Vec<Piece> {
    if c == 0 {
        return Vec::new();
    }
    let step = piece_rows(c);
    let cut = |(i, rows): (usize, Range<usize>)| {
        rows.clone().step_by(step).map(move |start| (i, start..rows.end.min(start + step)))
    };
    seq.ranges().enumerate().flat_map(cut).collect()
}

/// The rows of each of `pieces` in `out`.
fn split<'a>(mut out: &'a mut [f32], pieces: &[Piece], c: usize) -> Vec<&'a mut [f32]> {
    let mut slices = Vec::with_capacity(pieces.len());
    for (_, rows) in pieces {
        let (slice, rest) = std::mem::take(&mut out).split_at_mut(rows.len() * c);
        slices.push(slice);
        out = rest;
    }
    slices
}

/// `(y, stats [n, 2, c])`.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], seq: &SeqLens, eps: f64) -> (Vec<f32>, Vec<f32>) {
    let c = w.len();
    let mut y = vec![0.0; x.len()];
    let pieces = pieces(seq, c);
    let moments = map(pieces.len(), x.len(), |i| {
        let rows = &pieces[i].1;
        run(
            #[inline(always)]
            || piece_moments(&x[rows.start * c..rows.end * c], c),
        )
    });
    let stats = combine_moments(&pieces, &moments, seq.count(), c, eps);
    for_each(split(&mut y, &pieces, c), x.len(), |i, y| {
        let (s, rows) = &pieces[i];
        let (mean, rstd) = stats[2 * s * c..2 * (s + 1) * c].split_at(c);
        run(
            #[inline(always)]
            || {
                for (x, y) in x[rows.start * c..rows.end * c].chunks_exact(c).zip(y.chunks_exact_mut(c)) {
                    for j in 0..c {
                        y[j] = (x[j] - mean[j]) * rstd[j] * w[j] + b[j];
                    }
                }
            },
        );
    });
    (y, stats)
}

/// Each column's mean, then each column's sum of squared distances from it.
#[inline(always)]
fn piece_moments(x: &[f32], c: usize) -> Vec<f32> {
    let rows = x.len() / c;
    let mut moments = vec![0.0; 2 * c];
    let (mean, squares) = moments.split_at_mut(c);
    for x in x.chunks_exact(c) {
        mean.iter_mut().zip(x).for_each(|(m, &x)| *m += x);
    }
    mean.iter_mut().for_each(|m| *m /= rows as f32);
    for x in x.chunks_exact(c) {
        squares.iter_mut().zip(mean.iter()).zip(x).for_each(|((s, &m), &x)| *s += (x - m) * (x - m));
    }
    moments
}

/// The sequences' means and rstds from their pieces' moments, by the parallel rule of Chan, Golub and LeVeque 1979.
fn combine_moments(pieces: &[Piece], moments: &[Vec<f32>], n: usize, c: usize, eps: f64) -> Vec<f32> {
    let mut sums = vec![0.0f64; n * 2 * c];
    let mut counts = vec![0.0f64; n];
    for ((s, rows), moments) in pieces.iter().zip(moments) {
        let (mean, squares) = sums[2 * s * c..2 * (s + 1) * c].split_at_mut(c);
        let (old, new) = (counts[*s], rows.len() as f64);
        for j in 0..c {
            let delta = f64::from(moments[j]) - mean[j];
            mean[j] += delta * new / (old + new);
            squares[j] += f64::from(moments[c + j]) + delta * delta * old * new / (old + new);
        }
        counts[*s] += new;
    }
    for (s, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        for square in &mut sums[(2 * s + 1) * c..2 * (s + 1) * c] {
            *square = 1.0 / (*square / count + eps).sqrt();
        }
    }
    sums.into_iter().map(|s| s as f32).collect()
}

/// `(dx, dw, db)`.
pub fn backward(grad: &[f32], x: &[f32], w: &[f32], stats: &[f32], seq: &SeqLens) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let c = w.len();
    let mut dx = vec![0.0; x.len()];
    let pieces = pieces(seq, c);
    let sums = map(pieces.len(), x.len(), |i| {
        let (s, rows) = &pieces[i];
        let (start, end) = (rows.start * c, rows.end * c);
        run(
            #[inline(always)]
            || piece_sums(&grad[start..end], &x[start..end], &stats[2 * s * c..2 * (s + 1) * c], c),
        )
    });
    let (by_sequence, dw, db) = combine_sums(&pieces, &sums, seq, c);
    for_each(split(&mut dx, &pieces, c), x.len(), |i, dx| {
        let (s, rows) = &pieces[i];
        let (mean, rstd) = stats[2 * s * c..2 * (s + 1) * c].split_at(c);
        let (along, constant) = by_sequence[2 * s * c..2 * (s + 1) * c].split_at(c);
        let (start, end) = (rows.start * c, rows.end * c);
        let (grad, x) = (&grad[start..end], &x[start..end]);
        run(
            #[inline(always)]
            || {
                for ((g, x), dx) in grad.chunks_exact(c).zip(x.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
                    for j in 0..c {
                        let normal = (x[j] - mean[j]) * rstd[j];
                        dx[j] = rstd[j] * w[j] * (g[j] - constant[j] - normal * along[j]);
                    }
                }
            },
        );
    });
    (dx, dw, db)
}

/// Each column's `Σ g·normal`, then each column's `Σ g`.
#[inline(always)]
fn piece_sums(grad: &[f32], x: &[f32], stats: &[f32], c: usize) -> Vec<f32> {
    let (mean, rstd) = stats.split_at(c);
    let mut sums = vec![0.0; 2 * c];
    let (along, constant) = sums.split_at_mut(c);
    for (g, x) in grad.chunks_exact(c).zip(x.chunks_exact(c)) {
        for j in 0..c {
            along[j] += g[j] * (x[j] - mean[j]) * rstd[j];
            constant[j] += g[j];
        }
    }
    sums
}

/// The means over each sequence's rows `[n, 2, c]`, and the sums over all rows `dw` and `db`.
fn combine_sums(pieces: &[Piece], sums: &[Vec<f32>], seq: &SeqLens, c: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut by_sequence = vec![0.0f64; seq.count() * 2 * c];
    for ((s, _), sums) in pieces.iter().zip(sums) {
        by_sequence[2 * s * c..2 * (s + 1) * c].iter_mut().zip(sums).for_each(|(a, &b)| *a += f64::from(b));
    }
    let mut all = vec![0.0f64; 2 * c];
    for (s, len) in seq.lens().enumerate() {
        let sums = &mut by_sequence[2 * s * c..2 * (s + 1) * c];
        all.iter_mut().zip(sums.iter()).for_each(|(a, &b)| *a += b);
        sums.iter_mut().for_each(|sum| *sum /= len.max(1) as f64);
    }
    let to_f32 = |v: &[f64]| v.iter().map(|&x| x as f32).collect();
    (to_f32(&by_sequence), to_f32(&all[..c]), to_f32(&all[c..]))
}
