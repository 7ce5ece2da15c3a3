use crate::{SeqLens, mean_pool, parallel, simd};

/// Elements per piece of work: a piece of the sum stays in the first-level cache while the layers stream by.
const PIECE: usize = 2048;

/// The sum of `layers` by softmaxed `weights`.
pub fn sum(layers: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
    let mut sum = vec![0.0f32; layers[0].len()];
    let work = sum.len() * layers.len();
    parallel::for_each(sum.chunks_mut(PIECE).collect(), work, |i, piece: &mut [f32]| {
        simd::run(
            #[inline(always)]
            || {
                for (layer, &w) in layers.iter().zip(&weights) {
                    add_scaled(piece, &layer[i * PIECE..][..piece.len()], w);
                }
            },
        );
    });
    sum
}

/// The mean of each layer over each sequence's rows, `[L, n, d]`.
pub fn means(layers: &[&[f32]], seq: &SeqLens, d: usize) -> Vec<f32> {
    let mut means = Vec::with_capacity(layers.len() * seq.count() * d);
    layers.iter().for_each(|layer| means.extend(mean_pool::cpu::forward(layer, seq, d)));
    means
}

/// What comes back through the sum.
pub struct FromSum<'a> {
    /// The gradient of the sum.
    pub grad: &'a [f32],
    /// The softmaxed weights.
    pub weights: &'a [f64],
    /// Whether the raw weights' gradient is wanted.
    pub dots: bool,
}

/// The gradients of the layers (empty unless `want_layers`) and of the raw weights.
pub fn backward(
    from_sum: Option<&FromSum>,
    layers: &[&[f32]],
    len: usize,
    want_layers: bool,
) -> (Vec<Vec<f32>>, Vec<f32>) {
    let count = layers.len();
    let mut d_layers = vec![vec![0.0f32; len]; if want_layers { count } else { 0 }];
    let Some(from_sum) = from_sum else { return (d_layers, vec![0.0; count]) };
    let mut pieces: Vec<(Vec<&mut [f32]>, Vec<f64>)> =
        (0..len.div_ceil(PIECE)).map(|_| (Vec::new(), vec![0.0; count])).collect();
    for d_layer in &mut d_layers {
        for (piece, chunk) in pieces.iter_mut().zip(d_layer.chunks_mut(PIECE)) {
            piece.0.push(chunk);
        }
    }
    parallel::for_each(pieces.iter_mut().collect(), len * count, |i, (d_layers, dots)| {
        simd::run(
            #[inline(always)]
            || piece_backward(from_sum, layers, i * PIECE..len.min((i + 1) * PIECE), d_layers, dots),
        );
    });
    let dw: Vec<f64> = (0..count).map(|l| pieces.iter().map(|(_, dots)| dots[l]).sum::<f64>()).collect();
    // Through the softmax: draw_l = w_l (dw_l - sum_m w_m dw_m).
    let mean: f64 = from_sum.weights.iter().zip(&dw).map(|(w, dw)| w * dw).sum();
    let d_raw = from_sum.weights.iter().zip(&dw).map(|(w, dw)| (w * (dw - mean)) as f32).collect();
    drop(pieces);
    (d_layers, d_raw)
}

#[inline(always)]
fn piece_backward(
    from_sum: &FromSum,
    layers: &[&[f32]],
    at: std::ops::Range<usize>,
    d_layers: &mut [&mut [f32]],
    dots: &mut [f64],
) {
    let grad = &from_sum.grad[at.clone()];
    for (l, layer) in layers.iter().enumerate() {
        if from_sum.dots {
            dots[l] = f64::from(simd::dot(grad, &layer[at.clone()]));
        }
        if let Some(d_layer) = d_layers.get_mut(l) {
            add_scaled(d_layer, grad, from_sum.weights[l] as f32);
        }
    }
}

/// Adds to `d_layers` (none if they are not wanted) what comes back through the means, `grad` `[L, n, d]`.
pub fn add_from_means(d_layers: &mut [Vec<f32>], grad: &[f32], seq: &SeqLens, d: usize) {
    let work = d_layers.len() * seq.total() * d;
    parallel::for_each(d_layers.iter_mut().collect(), work, |l, d_layer: &mut Vec<f32>| {
        for (i, rows) in seq.ranges().enumerate() {
            let scale = 1.0 / rows.len().max(1) as f32;
            let mean = &grad[(l * seq.count() + i) * d..][..d];
            for row in d_layer[rows.start * d..rows.end * d].chunks_exact_mut(d.max(1)) {
                add_scaled(row, mean, scale);
            }
        }
    });
}

#[inline(always)]
fn add_scaled(y: &mut [f32], x: &[f32], w: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = x.mul_add(w, *y);
    }
}
