//! Activations on the CPU.

use super::Activation;
use crate::parallel::{for_rows, map, piece_rows, sum_pieces};
use crate::simd::{normal, run, sigmoid};

/// `f(x + bias)` of rows of `d`.
pub fn forward(x: &[f32], bias: Option<&[f32]>, d: usize, kind: Activation) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for_rows(&mut y, d, piece_rows(d), |first, y| {
        let x = &x[first * d..][..y.len()];
        run(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
                    biased(x, bias, y);
                    activate(y, kind);
                }
            },
        );
    });
    y
}

/// `grad · f'(x + bias)` of rows of `d`.
pub fn backward(grad: &[f32], x: &[f32], bias: Option<&[f32]>, d: usize, kind: Activation) -> Vec<f32> {
    let mut dx = vec![0.0; x.len()];
    for_rows(&mut dx, d, piece_rows(d), |first, dx| {
        let (grad, x) = (&grad[first * d..][..dx.len()], &x[first * d..][..dx.len()]);
        run(
            #[inline(always)]
            || {
                for ((g, x), dx) in grad.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
                    biased(x, bias, dx);
                    differentiate(dx, g, kind);
                }
            },
        );
    });
    dx
}

/// The sum of the rows of width `d`.
pub fn column_sum(x: &[f32], d: usize) -> Vec<f32> {
    if d == 0 {
        return Vec::new();
    }
    let piece = piece_rows(d) * d;
    let sums = map(x.len().div_ceil(piece), x.len(), |i| {
        let mut sum = vec![0.0; d];
        run(
            #[inline(always)]
            || {
                for x in x[i * piece..].chunks_exact(d).take(piece / d) {
                    sum.iter_mut().zip(x).for_each(|(s, &x)| *s += x);
                }
            },
        );
        sum
    });
    sum_pieces(&sums, d)
}

#[inline(always)]
fn biased(x: &[f32], bias: Option<&[f32]>, z: &mut [f32]) {
    match bias {
        Some(bias) => z.iter_mut().zip(x).zip(bias).for_each(|((z, &x), &b)| *z = x + b),
        None => z.copy_from_slice(x),
    }
}

#[inline(always)]
fn activate(z: &mut [f32], kind: Activation) {
    match kind {
        Activation::Gelu => z.iter_mut().for_each(|z| *z *= normal(*z).0),
        Activation::GeluTanh => z.iter_mut().for_each(|z| *z *= tanh_gate(*z).0),
        Activation::Relu => z.iter_mut().for_each(|z| *z = if *z <= 0.0 { 0.0 } else { *z }),
        Activation::Silu => z.iter_mut().for_each(|z| *z *= sigmoid(*z)),
    }
}

/// Replaces each `z` by `g · f'(z)`.
#[inline(always)]
fn differentiate(z: &mut [f32], grad: &[f32], kind: Activation) {
    let pairs = z.iter_mut().zip(grad);
    match kind {
        Activation::Gelu => pairs.for_each(|(z, &g)| {
            let (cdf, pdf) = normal(*z);
            *z = g * (cdf + *z * pdf);
        }),
        Activation::GeluTanh => pairs.for_each(|(z, &g)| {
            let (gate, slope) = tanh_gate(*z);
            *z = g * (gate + *z * slope);
        }),
        Activation::Relu => pairs.for_each(|(z, &g)| *z = if *z <= 0.0 { 0.0 } else { g }),
        Activation::Silu => pairs.for_each(|(z, &g)| {
            let s = sigmoid(*z);
            *z = g * s * (1.0 + *z * (1.0 - s));
        }),
    }
}

/// `(1 + tanh(u))/2 = sigmoid(2u)` with `u = √(2/π)(z + 0.044715 z³)`, and its derivative in `z`.
#[inline(always)]
fn tanh_gate(z: f32) -> (f32, f32) {
    const SCALE: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    // Saturated beyond; the clamp keeps the cube finite.
    let z = z.clamp(-16.0, 16.0);
    let gate = sigmoid(SCALE * (z + 0.044_715 * z * z * z));
    (gate, gate * (1.0 - gate) * SCALE * (1.0 + 3.0 * 0.044_715 * z * z))
}
