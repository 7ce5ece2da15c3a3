//! LayerNorm, defined.

/// `(y, stats)` with each row's mean and rstd.
pub fn forward(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>) {
    let d = w.len();
    let mut y = Vec::new();
    let mut stats = Vec::new();
    for row in x.chunks(d) {
        let mean = row.iter().sum::<f64>() / d as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / d as f64;
        let r = 1.0 / (variance + eps).sqrt();
        y.extend((0..d).map(|j| (row[j] - mean) * r * w[j] + b[j]));
        stats.extend([mean, r]);
    }
    (y, stats)
}

/// `(dx, dw, db)`.
pub fn backward(grad: &[f64], x: &[f64], w: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let d = w.len();
    let (_, stats) = forward(x, w, w, eps);
    let mut dx = Vec::new();
    let (mut dw, mut db) = (vec![0.0; d], vec![0.0; d]);
    for (row, stats) in stats.chunks(2).enumerate() {
        let (g, x, mean, r) = (&grad[row * d..][..d], &x[row * d..][..d], stats[0], stats[1]);
        let normal: Vec<f64> = x.iter().map(|x| (x - mean) * r).collect();
        let constant = (0..d).map(|j| g[j] * w[j]).sum::<f64>() / d as f64;
        let along = (0..d).map(|j| g[j] * w[j] * normal[j]).sum::<f64>() / d as f64;
        for j in 0..d {
            dx.push(r * (g[j] * w[j] - constant - normal[j] * along));
            dw[j] += g[j] * normal[j];
            db[j] += g[j];
        }
    }
    (dx, dw, db)
}
