//! The definition, in f64.

use super::EPS;

/// `w` [v, d] with its rows normalised.
pub fn forward(w: &[f64], d: usize) -> Vec<f64> {
    let divisor = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::from(EPS));
    w.chunks(d).flat_map(|row| row.iter().map(move |x| x / divisor(row))).collect()
}

/// The gradient of `w` [v, d] from that of the output.
pub fn backward(grad: &[f64], w: &[f64], d: usize) -> Vec<f64> {
    let mut dw = Vec::with_capacity(w.len());
    for (g, w) in grad.chunks(d).zip(w.chunks(d)) {
        let norm = w.iter().map(|x| x * x).sum::<f64>().sqrt();
        let along = g.iter().zip(w).map(|(g, w)| g * w).sum::<f64>();
        if norm > f64::from(EPS) {
            dw.extend(g.iter().zip(w).map(|(g, w)| g / norm - w * along / norm.powi(3)));
        } else {
            dw.extend(g.iter().map(|g| g / f64::from(EPS)));
        }
    }
    dw
}
