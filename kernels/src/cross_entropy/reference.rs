//! The definition, in f64.

/// The summed loss of `logits` [n, c].
pub fn forward(logits: &[f64], c: usize, labels: &[u32]) -> f64 {
    logits.chunks(c).zip(labels).map(|(row, &label)| -softmax(row)[label as usize].ln()).sum()
}

/// Its gradient [n, c].
pub fn backward(logits: &[f64], c: usize, labels: &[u32]) -> Vec<f64> {
    let mut grad = Vec::with_capacity(logits.len());
    for (row, &label) in logits.chunks(c).zip(labels) {
        grad.extend(softmax(row).iter().enumerate().map(|(j, p)| p - f64::from(u8::from(j == label as usize))));
    }
    grad
}

/// How many rows' first greatest logit is their label's.
pub fn correct(logits: &[f64], c: usize, labels: &[u32]) -> u64 {
    let is_first = |(row, &label): (&[f64], &u32)| {
        let label = label as usize;
        row.iter().enumerate().all(|(j, x)| if j < label { *x < row[label] } else { *x <= row[label] })
    };
    logits.chunks(c).zip(labels).filter(|&pair| is_first(pair)).count() as u64
}

/// The softmax of one row.
pub fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}
