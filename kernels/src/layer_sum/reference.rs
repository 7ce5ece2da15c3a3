//! The definition, in f64.

use crate::cross_entropy::reference::softmax;

/// `sum_l softmax(raw)_l layers_l`.
pub fn forward(layers: &[Vec<f64>], raw: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; layers[0].len()];
    for (layer, w) in layers.iter().zip(softmax(raw)) {
        for (y, x) in y.iter_mut().zip(layer) {
            *y += w * x;
        }
    }
    y
}

/// The gradients of the layers and of the raw weights from that of the sum.
pub fn backward(grad: &[f64], layers: &[Vec<f64>], raw: &[f64]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let w = softmax(raw);
    let d_layers = w.iter().map(|w| grad.iter().map(|g| g * w).collect()).collect();
    let dw: Vec<f64> = layers.iter().map(|x| x.iter().zip(grad).map(|(x, g)| x * g).sum()).collect();
    let mean: f64 = w.iter().zip(&dw).map(|(w, dw)| w * dw).sum();
    let d_raw = w.iter().zip(&dw).map(|(w, dw)| w * (dw - mean)).collect();
    (d_layers, d_raw)
}
