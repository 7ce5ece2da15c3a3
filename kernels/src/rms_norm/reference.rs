//! RMSNorm, defined.

/// `(y, rstd)`.
pub fn forward(x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let d = w.len();
    let mut y = Vec::new();
    let mut rstd = Vec::new();
    for row in x.chunks(d) {
        let mean_square = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
        let r = 1.0 / (mean_square + eps).sqrt();
        y.extend(row.iter().zip(w).map(|(x, w)| x * r * w));
        rstd.push(r);
    }
    (y, rstd)
}

/// `(dx, dw)`.
pub fn backward(grad: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let d = w.len();
    let (_, rstd) = forward(x, w, eps);
    let mut dx = Vec::new();
    let mut dw = vec![0.0; d];
    for (row, &r) in rstd.iter().enumerate() {
        let (g, x) = (&grad[row * d..][..d], &x[row * d..][..d]);
        let along: f64 = (0..d).map(|j| g[j] * w[j] * x[j]).sum::<f64>() * r * r / d as f64;
        for j in 0..d {
            dx.push(r * (g[j] * w[j] - x[j] * along));
            dw[j] += g[j] * x[j] * r;
        }
    }
    (dx, dw)
}
