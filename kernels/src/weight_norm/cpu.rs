//! Weight normalisation on the CPU: v is rows of k numbers.

use crate::parallel;

/// Rows in a partial sum and in a piece of work.
const ROWS: usize = 128;

/// For each column the sum over rows of `a * b`.
fn column_dots(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let piece = ROWS * k;
    let partial = parallel::map(a.len().div_ceil(piece), a.len(), |p| {
        let range = p * piece..a.len().min((p + 1) * piece);
        let mut sum = vec![0.0f32; k];
        for (a, b) in a[range.clone()].chunks_exact(k).zip(b[range].chunks_exact(k)) {
            for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        sum
    });
    let mut total = vec![0.0; k];
    for partial in partial {
        total.iter_mut().zip(partial).for_each(|(t, p)| *t += p);
    }
    total
}

pub fn forward(v: &[f32], g: &[f32]) -> Vec<f32> {
    let k = g.len();
    let mut w = v.to_vec();
    if w.is_empty() {
        return w;
    }
    let scale: Vec<f32> = column_dots(v, v, k).iter().zip(g).map(|(square, g)| g / square.sqrt()).collect();
    parallel::for_rows(&mut w, k, ROWS, |_, rows| {
        rows.chunks_exact_mut(k).for_each(|row| row.iter_mut().zip(&scale).for_each(|(w, s)| *w *= s));
    });
    w
}

/// `dg = grad . v / |v|`; `dv = g / |v| (grad - v (grad . v) / |v|^2)`.
pub fn backward(grad: &[f32], v: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let k = g.len();
    let mut dv = v.to_vec();
    if dv.is_empty() {
        return (dv, vec![0.0; k]);
    }
    let (squares, dots) = (column_dots(v, v, k), column_dots(grad, v, k));
    let dg = dots.iter().zip(&squares).map(|(dot, square)| dot / square.sqrt()).collect();
    let scale: Vec<f32> = g.iter().zip(&squares).map(|(g, square)| g / square.sqrt()).collect();
    let along: Vec<f32> = dots.iter().zip(&squares).map(|(dot, square)| dot / square).collect();
    parallel::for_rows(&mut dv, k, ROWS, |first, rows| {
        let grad = grad[first * k..].chunks_exact(k);
        for (row, grad) in rows.chunks_exact_mut(k).zip(grad) {
            for (((dv, grad), scale), along) in row.iter_mut().zip(grad).zip(&scale).zip(&along) {
                *dv = scale * (grad - *dv * along);
            }
        }
    });
    (dv, dg)
}
