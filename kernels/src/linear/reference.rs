//! The dense layer, defined.

/// `y[t, o] = bias[o] + sum_i x[t, i] w[o, i]`, for x of `x.len() / i` rows and w of `w.len() / i`.
pub fn forward(x: &[f64], w: &[f64], bias: Option<&[f64]>, i: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(i) {
        for (o, w) in w.chunks_exact(i).enumerate() {
            let dot: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
            y.push(dot + bias.map_or(0.0, |b| b[o]));
        }
    }
    y
}

/// The gradient of x `[t, i]` for grad `[t, o]`, w `[o, i]`.
pub fn backward_input(grad: &[f64], w: &[f64], i: usize, o: usize) -> Vec<f64> {
    let mut dx = vec![0.0; grad.len() / o * i];
    for (grad, dx) in grad.chunks_exact(o).zip(dx.chunks_exact_mut(i)) {
        for (g, w) in grad.iter().zip(w.chunks_exact(i)) {
            dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += g * w);
        }
    }
    dx
}

/// The gradient of w `[o, i]` for grad `[t, o]`, x `[t, i]`.
pub fn backward_weight(grad: &[f64], x: &[f64], i: usize, o: usize) -> Vec<f64> {
    let mut dw = vec![0.0; o * i];
    for (grad, x) in grad.chunks_exact(o).zip(x.chunks_exact(i)) {
        for (g, dw) in grad.iter().zip(dw.chunks_exact_mut(i)) {
            dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += g * x);
        }
    }
    dw
}

/// The gradient of the bias `[o]` for grad `[t, o]`.
pub fn backward_bias(grad: &[f64], o: usize) -> Vec<f64> {
    (0..o).map(|o_| grad.chunks_exact(o).map(|row| row[o_]).sum()).collect()
}
