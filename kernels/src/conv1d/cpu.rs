//! The convolution on the CPU, as matrix products on strided views.

use super::Sizes;
use crate::gemm::{Packed, View, gemm, product};
use crate::{SeqLens, parallel};

pub fn forward(x: &[f32], w: &[f32], bias: Option<&[f32]>, seq: &SeqLens, out: &SeqLens, s: Sizes) -> Vec<f32> {
    let Sizes { c_in, c_out, stride, .. } = s;
    let mut y = match bias {
        Some(bias) => bias.repeat(out.total()),
        None => vec![0.0; out.total() * c_out],
    };
    let w = Packed::new(View::rows(w, s.window()).t(), s.window(), c_out);
    parallel::for_sequences(&mut y, out, c_out, |i, y| {
        let rows = seq.range(i);
        let windows = View { data: &x[rows.start * c_in..rows.end * c_in], row: stride * c_in, col: 1 };
        product(out.len_of(i), windows, &w, y, c_out, bias.is_some());
    });
    y
}

/// Rows `q * stride + phase` of dx take part in taps `phase, phase + stride, ...` of windows `q, q - 1, ...` only: each
/// phase is itself a convolution with stride 1, of grad with those taps in reverse.
pub fn backward_input(grad: &[f32], w: &[f32], seq: &SeqLens, out: &SeqLens, s: Sizes) -> Vec<f32> {
    let Sizes { c_in, c_out, kernel, stride } = s;
    let phases: Vec<Packed> = (0..stride.min(kernel))
        .map(|phase| {
            let taps: Vec<usize> = (phase..kernel).step_by(stride).collect();
            let mut b = Vec::with_capacity(taps.len() * c_out * c_in);
            for tap in taps.iter().rev() {
                for row in w.chunks_exact(s.window()) {
                    b.extend_from_slice(&row[tap * c_in..(tap + 1) * c_in]);
                }
            }
            Packed::new(View::rows(&b, c_in), taps.len() * c_out, c_in)
        })
        .collect();
    let mut dx = vec![0.0; seq.total() * c_in];
    parallel::for_sequences(&mut dx, seq, c_in, |i, dx| {
        let (rows, len) = (out.range(i), seq.len_of(i));
        if rows.is_empty() {
            return;
        }
        // Windows before the first and after the last have no gradient.
        let margin = kernel.div_ceil(stride) - 1;
        let mut padded = vec![0.0; (rows.len() + 2 * margin) * c_out];
        padded[margin * c_out..][..rows.len() * c_out].copy_from_slice(&grad[rows.start * c_out..rows.end * c_out]);
        for (phase, b) in phases.iter().enumerate() {
            let taps = (kernel - phase).div_ceil(stride);
            let count = (len - phase).div_ceil(stride).min(rows.len() + taps - 1);
            let windows = View { data: &padded[(margin + 1 - taps) * c_out..], row: c_out, col: 1 };
            product(count, windows, b, &mut dx[phase * c_in..], stride * c_in, false);
        }
    });
    dx
}

pub fn backward_weight(grad: &[f32], x: &[f32], seq: &SeqLens, out: &SeqLens, s: Sizes) -> Vec<f32> {
    let Sizes { c_in, c_out, stride, .. } = s;
    let window = s.window();
    let mut dw = vec![0.0; c_out * window];
    for (rows, out) in seq.ranges().zip(out.ranges()).filter(|(_, out)| !out.is_empty()) {
        let grad = View::rows(&grad[out.start * c_out..out.end * c_out], c_out);
        let windows = View { data: &x[rows.start * c_in..rows.end * c_in], row: stride * c_in, col: 1 };
        gemm(c_out, window, out.len(), grad.t(), windows, &mut dw, window, true);
    }
    dw
}
