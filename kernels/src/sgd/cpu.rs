//! SGD on the CPU.

use super::Hyper;
use crate::parallel::{SERIAL_BELOW, for_each, for_rows};
use crate::simd::run;

/// Steps without momentum.
pub fn step(master: &mut [f32], grad: &[f32], h: Hyper, grad_scale: f32) {
    let (lr, decay) = (h.lr as f32, h.weight_decay as f32);
    for_rows(master, 1, SERIAL_BELOW, |first, master| {
        let grad = &grad[first..][..master.len()];
        run(
            #[inline(always)]
            || master.iter_mut().zip(grad).for_each(|(p, g)| *p -= lr * (g * grad_scale + decay * *p)),
        );
    });
}

/// Steps with momentum: `buffer` becomes `momentum · buffer + gradient`, the direction stepped along.
pub fn step_momentum(master: &mut [f32], buffer: &mut [f32], grad: &[f32], h: Hyper, grad_scale: f32) {
    let (lr, decay, momentum) = (h.lr as f32, h.weight_decay as f32, h.momentum as f32);
    let work = master.len();
    let pieces = master.chunks_mut(SERIAL_BELOW).zip(buffer.chunks_mut(SERIAL_BELOW)).zip(grad.chunks(SERIAL_BELOW));
    for_each(pieces.collect(), work, |_, ((master, buffer), grad)| {
        run(
            #[inline(always)]
            || {
                for ((p, b), g) in master.iter_mut().zip(buffer).zip(grad) {
                    *b = momentum * *b + (g * grad_scale + decay * *p);
                    *p -= lr * *b;
                }
            },
        );
    });
}
