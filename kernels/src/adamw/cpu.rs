//! AdamW on the CPU.

use half::bf16;

use super::Hyper;
use crate::parallel::{SERIAL_BELOW, for_each};
use crate::simd::run;
use crate::tensor::round_to_bf16;

/// The step's constants, as torch rounds them: computed in f64, applied in f32.
pub struct Constants {
    pub(super) grad_scale: f32,
    pub(super) keep: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta1: f32,
    pub(super) one_minus_beta2: f32,
    pub(super) step_size: f32,
    pub(super) root_correction2: f32,
    pub(super) eps: f32,
}

impl Constants {
    /// Before the correction of the moments' bias, unscaled.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    pub(super) fn uncorrected(h: Hyper) -> Self {
        Self { step_size: h.lr as f32, root_correction2: 1.0, ..Self::new(h, 1, 1.0) }
    }

    /// Of step number `step`.
    pub(super) fn new(h: Hyper, step: u64, grad_scale: f32) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Self {
            grad_scale,
            keep: (1.0 - h.lr * h.weight_decay) as f32,
            beta2: h.beta2 as f32,
            one_minus_beta1: (1.0 - h.beta1) as f32,
            one_minus_beta2: (1.0 - h.beta2) as f32,
            step_size: (h.lr / correction(h.beta1)) as f32,
            root_correction2: correction(h.beta2).sqrt() as f32,
            eps: h.eps as f32,
        }
    }
}

/// Steps slices of one length; `compute` receives the new parameters.
pub fn step(
    master: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    grad: &[f32],
    compute: Option<&mut [bf16]>,
    constants: &Constants,
) {
    let work = master.len();
    let states = master.chunks_mut(SERIAL_BELOW).zip(m.chunks_mut(SERIAL_BELOW)).zip(v.chunks_mut(SERIAL_BELOW));
    let pieces = states.zip(grad.chunks(SERIAL_BELOW)).collect();
    for_each(pieces, work, |_, (((p, m), v), g)| step_piece(p, m, v, g, constants));
    if let Some(compute) = compute {
        round_to_bf16(master, compute);
    }
}

fn step_piece(master: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], c: &Constants) {
    run(
        #[inline(always)]
        || {
            for (((p, m), v), g) in master.iter_mut().zip(m).zip(v).zip(grad) {
                let g = g * c.grad_scale;
                *m += (g - *m) * c.one_minus_beta1;
                *v = *v * c.beta2 + g * g * c.one_minus_beta2;
                *p = *p * c.keep - c.step_size * *m / (v.sqrt() / c.root_correction2 + c.eps);
            }
        },
    );
}
