//! The positional convolution, defined.

use super::Sizes;
use crate::SeqLens;

/// Calls `f(row of y, row of x, tap)` for every tap that falls on a row of the same sequence.
fn each_tap(seq: &SeqLens, kernel: usize, mut f: impl FnMut(usize, usize, usize)) {
    for range in seq.ranges() {
        for row in range.clone() {
            for tap in 0..kernel {
                if let Some(from) = (row + tap).checked_sub(kernel / 2).filter(|from| range.contains(from)) {
                    f(row, from, tap);
                }
            }
        }
    }
}

/// Calls `f(output channel, input channel, index of the weight at tap 0)` for every pair in one group.
fn each_pair(s: Sizes, mut f: impl FnMut(usize, usize, usize)) {
    for o in 0..s.d {
        for i in 0..s.width() {
            f(o, o / s.width() * s.width() + i, (o * s.width() + i) * s.kernel);
        }
    }
}

/// `y[t, o] = bias[o] + sum over tap, i of x[t + tap - k/2, i] w[o, i, tap]` within each sequence and group.
pub fn forward(x: &[f64], w: &[f64], bias: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let mut y: Vec<f64> = (0..seq.total() * s.d).map(|i| bias[i % s.d]).collect();
    each_tap(seq, s.kernel, |row, from, tap| {
        each_pair(s, |o, i, at| y[row * s.d + o] += x[from * s.d + i] * w[at + tap]);
    });
    y
}

/// The gradient of x.
pub fn backward_input(grad: &[f64], w: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let mut dx = vec![0.0; seq.total() * s.d];
    each_tap(seq, s.kernel, |row, from, tap| {
        each_pair(s, |o, i, at| dx[from * s.d + i] += grad[row * s.d + o] * w[at + tap]);
    });
    dx
}

/// The gradient of w.
pub fn backward_weight(grad: &[f64], x: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let mut dw = vec![0.0; s.d * s.width() * s.kernel];
    each_tap(seq, s.kernel, |row, from, tap| {
        each_pair(s, |o, i, at| dw[at + tap] += grad[row * s.d + o] * x[from * s.d + i]);
    });
    dw
}
