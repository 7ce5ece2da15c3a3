//! RMSNorm on the CPU.

use crate::parallel::{for_each, map_each, piece_rows, sum_pieces};
use crate::simd::{dot, run, sum_by3};

/// `(y, rstd)` of `rows` rows of `w.len()` numbers.
pub fn forward(x: &[f32], w: &[f32], rows: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    let d = w.len();
    let (mut y, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows]);
    if d > 0 {
        let piece = piece_rows(d);
        let pieces = y.chunks_mut(piece * d).zip(rstd.chunks_mut(piece)).zip(x.chunks(piece * d)).collect();
        for_each(pieces, x.len(), |_, ((y, rstd), x)| {
            run(
                #[inline(always)]
                || forward_piece(x, w, eps, y, rstd),
            )
        });
    }
    (y, rstd)
}

#[inline(always)]
fn forward_piece(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) {
    let d = w.len();
    for ((x, y), rstd) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(rstd) {
        let r = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x * r * w;
        }
        *rstd = r;
    }
}

/// `(dx, dw)`; `dw` is empty unless `need_weight`.
pub fn backward(grad: &[f32], x: &[f32], w: &[f32], rstd: &[f32], need_weight: bool) -> (Vec<f32>, Vec<f32>) {
    let d = w.len();
    let weights = if need_weight { d } else { 0 };
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
            || backward_piece(&grad[start..end], &x[start..end], w, &rstd[i * piece..], dx, &mut dw),
        );
        dw
    });
    let dw = sum_pieces(&dw, weights);
    (dx, dw)
}

#[inline(always)]
fn backward_piece(grad: &[f32], x: &[f32], w: &[f32], rstd: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = w.len();
    for (((g, x), dx), &r) in grad.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(rstd) {
        let along = sum_by3(g, w, x, |g, w, x| g * w * x) * r * r / d as f32;
        for (((dx, &g), &x), &w) in dx.iter_mut().zip(g).zip(x).zip(w) {
            *dx = r * (g * w - x * along);
        }
        for ((dw, &g), &x) in dw.iter_mut().zip(g).zip(x) {
            *dw += g * x * r;
        }
    }
}
