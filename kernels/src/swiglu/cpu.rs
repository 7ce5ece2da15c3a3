//! SwiGLU on the CPU.

use crate::parallel::{SERIAL_BELOW, for_each, for_rows};
use crate::simd::{run, sigmoid};

/// `silu(gate) · up`.
pub fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; gate.len()];
    for_rows(&mut y, 1, SERIAL_BELOW, |first, y| {
        let (gate, up) = (&gate[first..][..y.len()], &up[first..][..y.len()]);
        run(
            #[inline(always)]
            || y.iter_mut().zip(gate).zip(up).for_each(|((y, &g), &u)| *y = g * sigmoid(g) * u),
        );
    });
    y
}

/// `(dgate, dup)`.
pub fn backward(grad: &[f32], gate: &[f32], up: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let pieces = dgate.chunks_mut(SERIAL_BELOW).zip(dup.chunks_mut(SERIAL_BELOW)).collect();
    for_each(pieces, gate.len(), |i, (dgate, dup)| {
        let (start, end) = (i * SERIAL_BELOW, i * SERIAL_BELOW + dgate.len());
        let (grad, gate, up) = (&grad[start..end], &gate[start..end], &up[start..end]);
        run(
            #[inline(always)]
            || backward_piece(grad, gate, up, dgate, dup),
        );
    });
    (dgate, dup)
}

#[inline(always)]
fn backward_piece(grad: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = grad.len();
    let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
    for i in 0..n {
        let s = sigmoid(gate[i]);
        dgate[i] = grad[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
        dup[i] = grad[i] * gate[i] * s;
    }
}
