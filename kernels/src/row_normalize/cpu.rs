use super::EPS;
use crate::{parallel, simd};

/// Rows per piece of work.
const ROWS: usize = 64;

pub fn forward(w: &[f32], v: usize, d: usize) -> (Vec<f32>, Vec<f32>) {
    let mut norms = vec![0.0; v];
    parallel::for_each(norms.chunks_mut(ROWS).collect(), v * d, |piece, norms| {
        let w = &w[piece * ROWS * d..];
        simd::run(
            #[inline(always)]
            || {
                for (r, norm) in norms.iter_mut().enumerate() {
                    let row = &w[r * d..(r + 1) * d];
                    *norm = simd::dot(row, row).sqrt();
                }
            },
        );
    });
    let mut y = vec![0.0; v * d];
    parallel::for_rows(&mut y, d, ROWS, |first, rows| {
        for (r, row) in rows.chunks_mut(d).enumerate() {
            let r = first + r;
            let scale = 1.0 / norms[r].max(EPS);
            for (y, w) in row.iter_mut().zip(&w[r * d..(r + 1) * d]) {
                *y = w * scale;
            }
        }
    });
    (y, norms)
}

pub fn backward(grad: &[f32], w: &[f32], norms: &[f32], d: usize) -> Vec<f32> {
    let mut dw = vec![0.0; w.len()];
    parallel::for_rows(&mut dw, d, ROWS, |first, rows| {
        simd::run(
            #[inline(always)]
            || {
                for (r, row) in rows.chunks_mut(d).enumerate() {
                    let r = first + r;
                    let (g, w) = (&grad[r * d..(r + 1) * d], &w[r * d..(r + 1) * d]);
                    let scale = 1.0 / norms[r].max(EPS);
                    // Below EPS the divisor is a constant, so nothing flows through the norm.
                    let along = if norms[r] > EPS { simd::dot(g, w) * scale * scale } else { 0.0 };
                    for ((dw, g), w) in row.iter_mut().zip(g).zip(w) {
                        *dw = (g - w * along) * scale;
                    }
                }
            },
        );
    });
    dw
}
