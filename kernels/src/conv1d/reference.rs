//! The convolution, defined. `seq` is that of x throughout.

use super::{Sizes, out_len, out_seqlens};
use crate::SeqLens;

/// Calls `f(row of y, row of x, tap)` for every tap of every window.
fn each_tap(seq: &SeqLens, kernel: usize, stride: usize, mut f: impl FnMut(usize, usize, usize)) {
    let mut row = 0;
    for x in seq.ranges() {
        for j in 0..out_len(x.len(), kernel, stride) {
            (0..kernel).for_each(|tap| f(row, x.start + j * stride + tap, tap));
            row += 1;
        }
    }
}

/// `y[j, o] = bias[o] + sum over tap, i of x[j * stride + tap, i] w[o, tap * c_in + i]` within each sequence.
pub fn forward(x: &[f64], w: &[f64], bias: Option<&[f64]>, seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let Sizes { c_in, c_out, kernel, stride } = s;
    let rows = out_seqlens(seq, kernel, stride).total();
    let mut y: Vec<f64> = (0..rows * c_out).map(|i| bias.map_or(0.0, |b| b[i % c_out])).collect();
    each_tap(seq, kernel, stride, |row, from, tap| {
        for o in 0..c_out {
            for i in 0..c_in {
                y[row * c_out + o] += x[from * c_in + i] * w[(o * kernel + tap) * c_in + i];
            }
        }
    });
    y
}

/// The gradient of x `[t, c_in]`.
pub fn backward_input(grad: &[f64], w: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let Sizes { c_in, c_out, kernel, stride } = s;
    let mut dx = vec![0.0; seq.total() * c_in];
    each_tap(seq, kernel, stride, |row, from, tap| {
        for o in 0..c_out {
            for i in 0..c_in {
                dx[from * c_in + i] += grad[row * c_out + o] * w[(o * kernel + tap) * c_in + i];
            }
        }
    });
    dx
}

/// The gradient of w `[c_out, kernel * c_in]`.
pub fn backward_weight(grad: &[f64], x: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let Sizes { c_in, c_out, kernel, stride } = s;
    let mut dw = vec![0.0; c_out * kernel * c_in];
    each_tap(seq, kernel, stride, |row, from, tap| {
        for o in 0..c_out {
            for i in 0..c_in {
                dw[(o * kernel + tap) * c_in + i] += grad[row * c_out + o] * x[from * c_in + i];
            }
        }
    });
    dw
}
