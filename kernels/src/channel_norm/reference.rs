//! Channel norm, defined.

use crate::SeqLens;

/// A sequence's mean and rstd of each of `c` channels; zeros if it is empty.
fn statistics(x: &[f64], c: usize, eps: f64) -> (Vec<f64>, Vec<f64>) {
    let rows = (x.len() / c) as f64;
    let column = |j: usize| x.iter().skip(j).step_by(c);
    let (mut mean, mut rstd) = (vec![0.0; c], vec![0.0; c]);
    for j in 0..c {
        if rows > 0.0 {
            mean[j] = column(j).sum::<f64>() / rows;
            rstd[j] = 1.0 / (column(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>() / rows + eps).sqrt();
        }
    }
    (mean, rstd)
}

/// `(y, stats [n, 2, c])`.
pub fn forward(x: &[f64], w: &[f64], b: &[f64], seq: &SeqLens, eps: f64) -> (Vec<f64>, Vec<f64>) {
    let c = w.len();
    let (mut y, mut stats) = (Vec::new(), Vec::new());
    for rows in seq.ranges() {
        let x = &x[rows.start * c..rows.end * c];
        let (mean, rstd) = statistics(x, c, eps);
        y.extend(x.iter().enumerate().map(|(i, x)| (x - mean[i % c]) * rstd[i % c] * w[i % c] + b[i % c]));
        stats.extend(mean);
        stats.extend(rstd);
    }
    (y, stats)
}

/// `(dx, dw, db)`.
pub fn backward(grad: &[f64], x: &[f64], w: &[f64], seq: &SeqLens, eps: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let c = w.len();
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; c], vec![0.0; c]);
    for rows in seq.ranges() {
        let (mean, rstd) = statistics(&x[rows.start * c..rows.end * c], c, eps);
        for j in 0..c {
            let normal = |t: usize| (x[t * c + j] - mean[j]) * rstd[j];
            let constant: f64 = rows.clone().map(|t| grad[t * c + j]).sum();
            let along: f64 = rows.clone().map(|t| grad[t * c + j] * normal(t)).sum();
            for t in rows.clone() {
                let centred = grad[t * c + j] - (constant + normal(t) * along) / rows.len() as f64;
                dx[t * c + j] = rstd[j] * w[j] * centred;
            }
            dw[j] += along;
            db[j] += constant;
        }
    }
    (dx, dw, db)
}
