//! The positional convolution, defined.

use super::Sizes;
use crate::SeqLens;

/// Calls `f(element of y, element of x, element of w)` for every product of the sum.
fn each_product(seq: &SeqLens, s: Sizes, mut f: impl FnMut(usize, usize, usize)) {
    let (n, k) = (s.width(), s.kernel);
    for range in seq.ranges() {
        for (t, tap) in range.clone().flat_map(|t| (0..k).map(move |tap| (t, tap))) {
            let Some(from) = (t + tap).checked_sub(k / 2).filter(|from| range.contains(from)) else { continue };
            for (o, i) in (0..s.d).flat_map(|o| (0..n).map(move |i| (o, i))) {
                f(t * s.d + o, from * s.d + o / n * n + i, (o * n + i) * k + tap);
            }
        }
    }
}

/// y `[t, d]` for x `[t, d]`, w `[d, d / groups, kernel]`, bias `[d]`.
pub fn forward(x: &[f64], w: &[f64], bias: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let mut y = bias.repeat(seq.total());
    each_product(seq, s, |to, from, weight| y[to] += x[from] * w[weight]);
    y
}

/// The gradient of x `[t, d]`.
pub fn backward_input(grad: &[f64], w: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let mut dx = vec![0.0; grad.len()];
    each_product(seq, s, |to, from, weight| dx[from] += grad[to] * w[weight]);
    dx
}

/// The gradient of w `[d, d / groups, kernel]`.
pub fn backward_weight(grad: &[f64], x: &[f64], seq: &SeqLens, s: Sizes) -> Vec<f64> {
    let mut dw = vec![0.0; s.d * s.width() * s.kernel];
    each_product(seq, s, |to, from, weight| dw[weight] += grad[to] * x[from]);
    dw
}
