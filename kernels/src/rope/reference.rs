//! Rotary embedding, defined.

/// `x [t, h, dh]` turned by `positions[t] · inv_freq`; by the negative of `positions` it is turned back.
pub fn forward(x: &[f64], positions: &[f64], inv_freq: &[f64]) -> Vec<f64> {
    let half = inv_freq.len();
    let width = x.len() / positions.len().max(1);
    let mut y = x.to_vec();
    for (row, position) in positions.iter().enumerate() {
        for head in (row * width..(row + 1) * width).step_by(2 * half) {
            for (j, frequency) in inv_freq.iter().enumerate() {
                let (sin, cos) = (position * frequency).sin_cos();
                let (a, b) = (x[head + j], x[head + half + j]);
                y[head + j] = a * cos - b * sin;
                y[head + half + j] = b * cos + a * sin;
            }
        }
    }
    y
}

/// The gradient for `x`.
pub fn backward(grad: &[f64], positions: &[f64], inv_freq: &[f64]) -> Vec<f64> {
    let back: Vec<f64> = positions.iter().map(|p| -p).collect();
    forward(grad, &back, inv_freq)
}
