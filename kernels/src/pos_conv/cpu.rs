//! Each group is a convolution of stride 1 over its channels, padded: [`conv1d`] does the rest.

use super::Sizes;
use crate::{SeqLens, conv1d, parallel};

impl Sizes {
    fn group(&self) -> conv1d::Sizes {
        conv1d::Sizes { c_in: self.width(), c_out: self.width(), kernel: self.kernel, stride: 1 }
    }
}

/// The lengths of the padded sequences: those that have rows gain `kernel - 1`.
fn padded(seq: &SeqLens, kernel: usize) -> SeqLens {
    SeqLens::from_lens(seq.lens().map(|len| if len == 0 { 0 } else { len + kernel - 1 }))
}

/// The channels of group `g`, `[rows, width]`, each sequence with its padding.
fn slice(x: &[f32], seq: &SeqLens, s: Sizes, g: usize, left: usize, extra: usize) -> Vec<f32> {
    let width = s.width();
    let mut out = Vec::with_capacity((seq.total() + seq.count() * extra) * width);
    for range in seq.ranges().filter(|r| !r.is_empty()) {
        out.resize(out.len() + left * width, 0.0);
        for row in range {
            out.extend_from_slice(&x[row * s.d + g * width..][..width]);
        }
        out.resize(out.len() + (extra - left) * width, 0.0);
    }
    out
}

/// Group `g`'s weight `[width, kernel * width]`, tap-major, from `[d, width, kernel]`.
fn weight(w: &[f32], s: Sizes, g: usize) -> Vec<f32> {
    let (width, kernel) = (s.width(), s.kernel);
    let mut out = vec![0.0; width * kernel * width];
    for (o, rows) in w[g * width * width * kernel..][..width * width * kernel].chunks_exact(width * kernel).enumerate()
    {
        for (i, taps) in rows.chunks_exact(kernel).enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                out[(o * kernel + tap) * width + i] = value;
            }
        }
    }
    out
}

/// Puts each group's `[t, width]` at its channels.
fn join(groups: Vec<Vec<f32>>, s: Sizes, rows: usize) -> Vec<f32> {
    let width = s.width();
    let mut y = vec![0.0; rows * s.d];
    parallel::for_rows(&mut y, s.d, 64, |first, piece| {
        for (i, row) in piece.chunks_exact_mut(s.d).enumerate() {
            for (out, group) in row.chunks_exact_mut(width).zip(&groups) {
                out.copy_from_slice(&group[(first + i) * width..][..width]);
            }
        }
    });
    y
}

pub fn forward(x: &[f32], w: &[f32], bias: &[f32], seq: &SeqLens, s: Sizes) -> Vec<f32> {
    let wide = padded(seq, s.kernel);
    let groups = parallel::map(s.groups, x.len() * s.kernel, |g| {
        let x = slice(x, seq, s, g, s.kernel / 2, s.kernel - 1);
        let bias = &bias[g * s.width()..][..s.width()];
        conv1d::cpu::forward(&x, &weight(w, s, g), Some(bias), &wide, seq, s.group())
    });
    join(groups, s, seq.total())
}

pub fn backward_input(grad: &[f32], w: &[f32], seq: &SeqLens, s: Sizes) -> Vec<f32> {
    let (wide, width) = (padded(seq, s.kernel), s.width());
    let groups = parallel::map(s.groups, grad.len() * s.kernel, |g| {
        let grad = slice(grad, seq, s, g, 0, 0);
        let dx = conv1d::cpu::backward_input(&grad, &weight(w, s, g), &wide, seq, s.group());
        let mut inner = Vec::with_capacity(seq.total() * width);
        for (range, len) in wide.ranges().zip(seq.lens()) {
            let first = range.start + if len == 0 { 0 } else { s.kernel / 2 };
            inner.extend_from_slice(&dx[first * width..(first + len) * width]);
        }
        inner
    });
    join(groups, s, seq.total())
}

pub fn backward_weight(grad: &[f32], x: &[f32], seq: &SeqLens, s: Sizes) -> Vec<f32> {
    let (wide, width, kernel) = (padded(seq, s.kernel), s.width(), s.kernel);
    let groups = parallel::map(s.groups, x.len() * kernel, |g| {
        let x = slice(x, seq, s, g, kernel / 2, kernel - 1);
        let grad = slice(grad, seq, s, g, 0, 0);
        let tap_major = conv1d::cpu::backward_weight(&grad, &x, &wide, seq, s.group());
        let mut dw = vec![0.0; tap_major.len()];
        for (o, row) in tap_major.chunks_exact(kernel * width).enumerate() {
            for (tap, values) in row.chunks_exact(width).enumerate() {
                for (i, &value) in values.iter().enumerate() {
                    dw[(o * width + i) * kernel + tap] = value;
                }
            }
        }
        dw
    });
    groups.concat()
}
