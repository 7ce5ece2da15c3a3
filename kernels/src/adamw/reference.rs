//! AdamW, defined (the algorithm box of `torch.optim.AdamW`).

use super::Hyper;

/// Steps `p`, `m` and `v` by `grad` times `grad_scale`, in step number `step`.
pub fn step(p: &mut [f64], m: &mut [f64], v: &mut [f64], grad: &[f64], h: Hyper, step: u64, grad_scale: f64) {
    for i in 0..p.len() {
        let g = grad[i] * grad_scale;
        p[i] -= h.lr * h.weight_decay * p[i];
        m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g;
        v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g * g;
        let m_hat = m[i] / (1.0 - h.beta1.powf(step as f64));
        let v_hat = v[i] / (1.0 - h.beta2.powf(step as f64));
        p[i] -= h.lr * m_hat / (v_hat.sqrt() + h.eps);
    }
}
