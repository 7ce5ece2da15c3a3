use crate::{parallel, simd};

/// Elements per piece of work: a piece of both sums stays in the first-level cache while the layers stream by.
const PIECE: usize = 2048;

/// Both sums of `layers` by softmaxed `weights`; empty where there are no weights.
pub fn forward(layers: &[&[f32]], weights: &[Option<Vec<f64>>; 2]) -> [Vec<f32>; 2] {
    let len = layers[0].len();
    let narrow = |w: &Option<Vec<f64>>| w.as_ref().map(|w| w.iter().map(|&x| x as f32).collect::<Vec<f32>>());
    let (first, second) = (narrow(&weights[0]), narrow(&weights[1]));
    let mut sums = [&first, &second].map(|w| vec![0.0f32; if w.is_some() { len } else { 0 }]);
    let [a, b] = &mut sums;
    let mut b_pieces = b.chunks_mut(PIECE);
    let pieces: Vec<_> = a.chunks_mut(PIECE).map(|a| (a, b_pieces.next().unwrap_or_default())).collect();
    parallel::for_each(pieces, len * layers.len(), |i, (a, b): (&mut [f32], &mut [f32])| {
        simd::run(
            #[inline(always)]
            || {
                for (l, layer) in layers.iter().enumerate() {
                    let x = &layer[i * PIECE..][..a.len()];
                    if let Some(w) = &first {
                        add_scaled(a, x, w[l]);
                    }
                    if let Some(w) = &second {
                        add_scaled(b, x, w[l]);
                    }
                }
            },
        );
    });
    sums
}

/// One sum's part in backward.
pub struct Side<'a> {
    /// The gradient of the sum.
    pub grad: &'a [f32],
    /// Its softmaxed weights.
    pub weights: &'a [f64],
    /// Whether the raw weights' gradient is wanted.
    pub dots: bool,
}

/// The gradients of the layers (empty unless `want_layers`) and, per side, of the raw weights.
pub fn backward(sides: &[Side], layers: &[&[f32]], len: usize, want_layers: bool) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let count = layers.len();
    let mut d_layers = vec![vec![0.0f32; len]; if want_layers { count } else { 0 }];
    let mut pieces: Vec<(Vec<&mut [f32]>, Vec<f64>)> =
        (0..len.div_ceil(PIECE)).map(|_| (Vec::new(), vec![0.0; sides.len() * count])).collect();
    for d_layer in &mut d_layers {
        for (piece, chunk) in pieces.iter_mut().zip(d_layer.chunks_mut(PIECE)) {
            piece.0.push(chunk);
        }
    }
    parallel::for_each(pieces.iter_mut().collect(), len * count, |i, (d_layers, dots)| {
        simd::run(
            #[inline(always)]
            || piece_backward(sides, layers, i * PIECE..len.min((i + 1) * PIECE), d_layers, dots),
        );
    });
    let d_raw = sides.iter().enumerate().map(|(s, side)| {
        let dw: Vec<f64> =
            (0..count).map(|l| pieces.iter().map(|(_, dots)| dots[s * count + l]).sum::<f64>()).collect();
        // Through the softmax: draw_l = w_l (dw_l - sum_m w_m dw_m).
        let mean: f64 = side.weights.iter().zip(&dw).map(|(w, dw)| w * dw).sum();
        side.weights.iter().zip(&dw).map(|(w, dw)| (w * (dw - mean)) as f32).collect()
    });
    let d_raw = d_raw.collect();
    drop(pieces);
    (d_layers, d_raw)
}

#[inline(always)]
fn piece_backward(
    sides: &[Side],
    layers: &[&[f32]],
    at: std::ops::Range<usize>,
    d_layers: &mut [&mut [f32]],
    dots: &mut [f64],
) {
    for (l, layer) in layers.iter().enumerate() {
        for (s, side) in sides.iter().enumerate() {
            let grad = &side.grad[at.clone()];
            if side.dots {
                dots[s * layers.len() + l] = f64::from(simd::dot(grad, &layer[at.clone()]));
            }
            if let Some(d_layer) = d_layers.get_mut(l) {
                add_scaled(d_layer, grad, side.weights[l] as f32);
            }
        }
    }
}

#[inline(always)]
fn add_scaled(y: &mut [f32], x: &[f32], w: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = x.mul_add(w, *y);
    }
}
