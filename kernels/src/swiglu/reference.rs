//! SwiGLU, defined.

use crate::activation::{Activation::Silu, reference::value_and_slope};

/// `silu(gate) · up`.
pub fn forward(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| value_and_slope(*g, Silu).0 * u).collect()
}

/// `(dgate, dup)`.
pub fn backward(grad: &[f64], gate: &[f64], up: &[f64]) -> (Vec<f64>, Vec<f64>) {
    (0..grad.len())
        .map(|i| {
            let (value, slope) = value_and_slope(gate[i], Silu);
            (grad[i] * up[i] * slope, grad[i] * value)
        })
        .unzip()
}
