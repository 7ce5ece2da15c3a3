//! LayerNorm on the CPU.

use crate::parallel::{for_each, map_each, piece_rows, sum_pieces};
use crate::simd::{dot, run, sum, sum_by, sum_by3};

/// `(y, stats)` of `rows` rows of `w.len()` numbers; `stats` holds each row's mean and rstd.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], rows: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    let d = w.len();
    let (mut y, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
    if d > 0 {
        let piece = piece_rows(d);
        let pieces = y.chunks_mut(piece * d).zip(stats.chunks_mut(2 * piece)).zip(x.chunks(piece * d)).collect();
        for_each(pieces, x.len(), |_, ((y, stats), x)| {
            run(
                #[inline(always)]
                || forward_piece(x, w, b, eps, y, stats),
            )
        });
    }
    (y, stats)
}

#[inline(always)]
fn forward_piece(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32]) {
    let d = w.len();
    for ((x, y), stats) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats.chunks_exact_mut(2)) {
        // Once more about the first estimate, whose rounding grows with the row's offset.
        let mean = sum(x) / d as f32;
        let mean = mean + sum_by(x, |x| x - mean) / d as f32;
        let r = 1.0 / (sum_by(x, |x| (x - mean) * (x - mean)) / d as f32 + eps).sqrt();
        for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = (x - mean) * r * w + b;
        }
        stats.copy_from_slice(&[mean, r]);
    }
}

/// The `y` of [`forward`], from its `stats`.
pub fn again(x: &[f32], w: &[f32], b: &[f32], stats: &[f32]) -> Vec<f32> {
    let d = w.len();
    let mut y = vec![0.0; x.len()];
    if d > 0 {
        let piece = piece_rows(d);
        let pieces = y.chunks_mut(piece * d).zip(stats.chunks(2 * piece)).zip(x.chunks(piece * d)).collect();
        for_each(pieces, x.len(), |_, ((y, stats), x)| {
            run(
                #[inline(always)]
                || again_piece(x, w, b, stats, y),
            )
        });
    }
    y
}

#[inline(always)]
fn again_piece(x: &[f32], w: &[f32], b: &[f32], stats: &[f32], y: &mut [f32]) {
    let d = w.len();
    for ((x, y), stats) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats.chunks_exact(2)) {
        let (mean, r) = (stats[0], stats[1]);
        for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = (x - mean) * r * w + b;
        }
    }
}

/// `(dx, dw followed by db)`; the second is empty unless `need_weight`.
pub fn backward(grad: &[f32], x: &[f32], w: &[f32], stats: &[f32], need_weight: bool) -> (Vec<f32>, Vec<f32>) {
    let d = w.len();
    let weights = if need_weight { 2 * d } else { 0 };
    let mut dx = vec![0.0; x.len()];
    if d == 0 {
        return (dx, Vec::new());
    }
    let piece = piece_rows(d);
    let pieces = dx.chunks_mut(piece * d).collect();
    let dw = map_each(pieces, x.len(), |i, dx| {
        let (start, end) = (i * piece * d, i * piece * d + dx.len());
        let mut dw = vec![0.0; weights];
        run(
            #[inline(always)]
            || backward_piece(&grad[start..end], &x[start..end], w, &stats[2 * i * piece..], dx, &mut dw),
        );
        dw
    });
    let dw = sum_pieces(&dw, weights);
    (dx, dw)
}

#[inline(always)]
fn backward_piece(grad: &[f32], x: &[f32], w: &[f32], stats: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = w.len();
    let (dw, db) = dw.split_at_mut(dw.len() / 2);
    let rows = grad.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(stats.chunks_exact(2));
    for (((g, x), dx), stats) in rows {
        let (mean, r) = (stats[0], stats[1]);
        let constant = dot(g, w) / d as f32;
        let along = sum_by3(g, w, x, |g, w, x| g * w * (x - mean)) * r * r / d as f32;
        for (((dx, &g), &x), &w) in dx.iter_mut().zip(g).zip(x).zip(w) {
            *dx = r * (g * w - constant - (x - mean) * along);
        }
        for (((dw, db), &g), &x) in dw.iter_mut().zip(db.iter_mut()).zip(g).zip(x) {
            *dw += g * (x - mean) * r;
            *db += g;
        }
    }
}
