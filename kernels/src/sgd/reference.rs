//! SGD, defined (the algorithm box of `torch.optim.SGD`).

use super::Hyper;

/// Steps `p` and `buffer` by `grad` times `grad_scale`.
pub fn step(p: &mut [f64], buffer: &mut [f64], grad: &[f64], h: Hyper, grad_scale: f64) {
    for i in 0..p.len() {
        buffer[i] = h.momentum * buffer[i] + grad[i] * grad_scale + h.weight_decay * p[i];
        p[i] -= h.lr * buffer[i];
    }
}
