//! The positional convolution on the CPU, as matrix products.
//!
//! A group has few channels, so one row of a product stands for several rows of the sequence: a window of
//! `kernel + rows - 1` rows of x against a banded matrix that holds the kernel once for each of them.

use std::ops::Range;

use super::Sizes;
use crate::gemm::{Packed, View, gemm, product};
use crate::{SeqLens, parallel};

/// The least number of columns of a product.
const COLUMNS: usize = 32;
/// The least number of rows of a weight gradient's product.
const ROWS: usize = 48;

pub fn forward(x: &[f32], w: &[f32], bias: &[f32], seq: &SeqLens, s: Sizes) -> Vec<f32> {
    let (n, k) = (s.width(), s.kernel);
    let mut y = correlate(x, seq, s, k / 2, |g, o, i, taps| taps.copy_from_slice(&w[((g * n + o) * n + i) * k..][..k]));
    parallel::for_rows(&mut y, s.d, 64, |_, rows| {
        rows.chunks_exact_mut(s.d).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    });
    y
}

/// The same convolution with the kernel reversed and its channels exchanged.
pub fn backward_input(grad: &[f32], w: &[f32], seq: &SeqLens, s: Sizes) -> Vec<f32> {
    let (n, k) = (s.width(), s.kernel);
    correlate(grad, seq, s, k - 1 - k / 2, |g, o, i, taps| {
        taps.copy_from_slice(&w[((g * n + i) * n + o) * k..][..k]);
        taps.reverse();
    })
}

/// `y[t, o] = sum over i, j of x[t + j - before, i] taps[j]` in each sequence and group, where `w(group, o, i, taps)`
/// gives the taps.
fn correlate(
    x: &[f32],
    seq: &SeqLens,
    s: Sizes,
    before: usize,
    w: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let Sizes { d, groups, kernel } = s;
    let mut y = vec![0.0; seq.total() * d];
    if y.is_empty() {
        return y;
    }
    let n = s.width();
    let rows = COLUMNS.div_ceil(n);
    let banded = parallel::map(groups, groups * kernel * n * n, |g| banded(s, rows, |o, i, taps| w(g, o, i, taps)));
    let parts = parallel::map(seq.count() * groups, y.len(), |job| {
        let (range, g) = (seq.range(job / groups), job % groups);
        let count = range.len().div_ceil(rows);
        let padded = padded(x, range, s, g, before, count * rows + kernel - 1);
        let mut y = vec![0.0; count * rows * n];
        product(count, View { data: &padded, row: rows * n, col: 1 }, &banded[g], &mut y, rows * n, false);
        y
    });
    parallel::for_sequences(&mut y, seq, d, |i, y| {
        for (t, row) in y.chunks_exact_mut(d).enumerate() {
            for (row, part) in row.chunks_exact_mut(n).zip(&parts[i * groups..]) {
                row.copy_from_slice(&part[t * n..(t + 1) * n]);
            }
        }
    });
    y
}

/// A group's banded matrix: column `(r, o)` holds the kernel of channel o, tap-major, from row `r * width` on.
fn banded(s: Sizes, rows: usize, w: impl Fn(usize, usize, &mut [f32])) -> Packed {
    let (n, kernel) = (s.width(), s.kernel);
    let window = (kernel + rows - 1) * n;
    let mut columns = vec![0.0; rows * n * window];
    let mut taps = vec![0.0; kernel];
    let mut tap_major = vec![0.0; kernel * n];
    for o in 0..n {
        for i in 0..n {
            w(o, i, &mut taps);
            tap_major[i..].iter_mut().step_by(n).zip(&taps).for_each(|(to, tap)| *to = *tap);
        }
        for r in 0..rows {
            columns[(r * n + o) * window + r * n..][..kernel * n].copy_from_slice(&tap_major);
        }
    }
    Packed::new(View::rows(&columns, window).t(), window, rows * n)
}

/// `len` rows of group `g` of the rows `range`, `before` rows of zeros first and zeros after.
fn padded(x: &[f32], range: Range<usize>, s: Sizes, g: usize, before: usize, len: usize) -> Vec<f32> {
    let n = s.width();
    let mut padded = vec![0.0; len * n];
    for (row, x) in padded.chunks_exact_mut(n).skip(before).zip(x[range.start * s.d..range.end * s.d].chunks_exact(s.d))
    {
        row.copy_from_slice(&x[g * n..(g + 1) * n]);
    }
    padded
}

/// With `rows` rows of grad side by side, `P[(r, o), (p, i)] = sum of grad[q * rows + r, o] x[q * rows + p, i]` over q; the
/// gradient of tap j is the sum over r of `P[(r, o), (j + r, i)]`.
pub fn backward_weight(grad: &[f32], x: &[f32], seq: &SeqLens, s: Sizes) -> Vec<f32> {
    let Sizes { d, groups, kernel } = s;
    let n = s.width();
    let mut dw = vec![0.0; d * n * kernel];
    if dw.is_empty() {
        return dw;
    }
    let rows = ROWS.div_ceil(n);
    let (high, wide) = (rows * n, (kernel + rows - 1) * n);
    let products = parallel::map(groups, seq.total() * d, |g| {
        let mut p = vec![0.0; high * wide];
        for range in seq.ranges().filter(|range| !range.is_empty()) {
            let count = range.len().div_ceil(rows);
            let grad = padded(grad, range.clone(), s, g, 0, count * rows);
            let x = padded(x, range, s, g, kernel / 2, count * rows + kernel - 1);
            let windows = View { data: &x, row: high, col: 1 };
            gemm(high, wide, count, View::rows(&grad, high).t(), windows, &mut p, wide, true);
        }
        p
    });
    parallel::for_rows(&mut dw, n * kernel, 1, |channel, dw| {
        let (p, o) = (&products[channel / n], channel % n);
        for r in 0..rows {
            let row = &p[(r * n + o) * wide + r * n..][..kernel * n];
            for (tap, row) in row.chunks_exact(n).enumerate() {
                row.iter().enumerate().for_each(|(i, p)| dw[i * kernel + tap] += p);
            }
        }
    });
    dw
}
