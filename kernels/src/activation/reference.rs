//! Activations, defined.

use std::f64::consts::{PI, TAU};

use super::Activation;

/// `(f(z), f'(z))`.
pub fn value_and_slope(z: f64, kind: Activation) -> (f64, f64) {
    match kind {
        Activation::Gelu => {
            let cdf = 0.5 * candle_core::cpu::erf::erfc_f64(-z / 2f64.sqrt());
            let pdf = (-0.5 * z * z).exp() / TAU.sqrt();
            (z * cdf, cdf + z * pdf)
        }
        Activation::GeluTanh => {
            let scale = (2.0 / PI).sqrt();
            let tanh = (scale * (z + 0.044715 * z * z * z)).tanh();
            let slope = (1.0 - tanh * tanh) * scale * (1.0 + 3.0 * 0.044715 * z * z);
            (0.5 * z * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * z * slope)
        }
        Activation::Relu => (z.max(0.0), if z > 0.0 { 1.0 } else { 0.0 }),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-z).exp());
            (z * s, s * (1.0 + z * (1.0 - s)))
        }
    }
}

/// `f(x + bias)`.
pub fn forward(x: &[f64], bias: &[f64], kind: Activation) -> Vec<f64> {
    x.iter().zip(bias.iter().cycle()).map(|(x, b)| value_and_slope(x + b, kind).0).collect()
}

/// `grad · f'(x + bias)`.
pub fn backward(grad: &[f64], x: &[f64], bias: &[f64], kind: Activation) -> Vec<f64> {
    let slopes = x.iter().zip(bias.iter().cycle()).map(|(x, b)| value_and_slope(x + b, kind).1);
    grad.iter().zip(slopes).map(|(g, slope)| g * slope).collect()
}

/// The sum of the rows of width `d`.
pub fn column_sum(x: &[f64], d: usize) -> Vec<f64> {
    (0..d).map(|j| x.iter().skip(j).step_by(d).sum()).collect()
}
