//! Weight normalisation, defined. v is `v.len() / g.len()` rows of `g.len()` columns.

fn norms(v: &[f64], k: usize) -> Vec<f64> {
    (0..k).map(|j| v.chunks_exact(k).map(|row| row[j] * row[j]).sum::<f64>().sqrt()).collect()
}

/// `w[row, j] = g[j] v[row, j] / |v[:, j]|`.
pub fn forward(v: &[f64], g: &[f64]) -> Vec<f64> {
    let norms = norms(v, g.len());
    v.iter().enumerate().map(|(i, v)| v * g[i % g.len()] / norms[i % g.len()]).collect()
}

/// The gradients of v and g.
pub fn backward(grad: &[f64], v: &[f64], g: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let k = g.len();
    let norms = norms(v, k);
    let dots: Vec<f64> =
        (0..k).map(|j| grad.chunks_exact(k).zip(v.chunks_exact(k)).map(|(grad, v)| grad[j] * v[j]).sum()).collect();
    let dv = grad
        .iter()
        .zip(v)
        .enumerate()
        .map(|(i, (grad, v))| {
            let j = i % k;
            g[j] * (grad / norms[j] - v * dots[j] / norms[j].powi(3))
        })
        .collect();
    (dv, dots.iter().zip(&norms).map(|(dot, norm)| dot / norm).collect())
}
