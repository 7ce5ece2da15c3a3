//! The definition, in f64: whole logits, then their cross-entropy.

use crate::cross_entropy::reference as cross_entropy;

/// The summed loss for `hidden` [t, d] and `weight` [v, d].
pub fn forward(hidden: &[f64], weight: &[f64], d: usize, rows: &[u32], labels: &[u32]) -> f64 {
    let v = weight.len() / d;
    rows.iter()
        .zip(labels)
        .map(|(&row, &label)| cross_entropy::forward(&logits(hidden, weight, d, row), v, &[label]))
        .sum()
}

/// Its gradients by `hidden` and `weight`.
pub fn backward(hidden: &[f64], weight: &[f64], d: usize, rows: &[u32], labels: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let v = weight.len() / d;
    let (mut d_hidden, mut d_weight) = (vec![0.0; hidden.len()], vec![0.0; weight.len()]);
    for (&row, &label) in rows.iter().zip(labels) {
        let d_logits = cross_entropy::backward(&logits(hidden, weight, d, row), v, &[label]);
        for (j, g) in d_logits.iter().enumerate() {
            for c in 0..d {
                d_hidden[row as usize * d + c] += g * weight[j * d + c];
                d_weight[j * d + c] += g * hidden[row as usize * d + c];
            }
        }
    }
    (d_hidden, d_weight)
}

/// How many rows' largest logit is their label's.
pub fn correct(hidden: &[f64], weight: &[f64], d: usize, rows: &[u32], labels: &[u32]) -> u64 {
    let v = weight.len() / d;
    let of_row = |(&row, &label): (&u32, &u32)| cross_entropy::correct(&logits(hidden, weight, d, row), v, &[label]);
    rows.iter().zip(labels).map(of_row).sum()
}

fn logits(hidden: &[f64], weight: &[f64], d: usize, row: u32) -> Vec<f64> {
    let x = &hidden[row as usize * d..][..d];
    weight.chunks(d).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}
