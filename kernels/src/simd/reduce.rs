//! Sums and dot products whose bits do not depend on the lanes of a vector.
//!
//! Element `i` goes to partial sum `i % 64`; the 64 are added by halves. Wider vectors hold more of
//! the partial sums in one register, and that is all they change.

use pulp::{Simd, WithSimd};

use super::dispatch;

/// Partial sums: four AVX-512 registers, enough to keep the adders busy.
const PARTIAL_SUMS: usize = 64;

/// The sum of `x`.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    dispatch(Reduce(Sum(x)))
}

/// The sum of `x[i] * y[i]` of two slices of one length.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    dispatch(Reduce(Dot(x, y)))
}

/// A reduction that keeps its partial sums in `N` vectors.
trait Reduction {
    fn run<S: Simd, const N: usize>(self, simd: S) -> f32;
}

/// Runs a reduction with as many vectors as hold all partial sums.
struct Reduce<R>(R);

impl<R: Reduction> WithSimd for Reduce<R> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        match S::F32_LANES {
            16 => self.0.run::<S, 4>(simd),
            8 => self.0.run::<S, 8>(simd),
            4 => self.0.run::<S, 16>(simd),
            _ => self.0.run::<S, PARTIAL_SUMS>(simd),
        }
    }
}

struct Sum<'a>(&'a [f32]);

impl Reduction for Sum<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) -> f32 {
        let mut partial = [simd.splat_f32s(0.0); N];
        let (x, tail) = S::as_simd_f32s(self.0);
        let (blocks, vectors) = x.as_chunks::<N>();
        let last = vectors.iter().copied().chain([simd.partial_load_f32s(tail)]);
        for block in blocks {
            for (p, x) in partial.iter_mut().zip(block) {
                *p = simd.add_f32s(*p, *x);
            }
        }
        for (p, x) in partial.iter_mut().zip(last) {
            *p = simd.add_f32s(*p, x);
        }
        fold(simd, partial)
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Reduction for Dot<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) -> f32 {
        let mut partial = [simd.splat_f32s(0.0); N];
        let ((x, x_tail), (y, y_tail)) = (S::as_simd_f32s(self.0), S::as_simd_f32s(self.1));
        let ((x_blocks, x), (y_blocks, y)) = (x.as_chunks::<N>(), y.as_chunks::<N>());
        let x_last = x.iter().copied().chain([simd.partial_load_f32s(x_tail)]);
        let y_last = y.iter().copied().chain([simd.partial_load_f32s(y_tail)]);
        for (x, y) in x_blocks.iter().zip(y_blocks) {
            for ((p, x), y) in partial.iter_mut().zip(x).zip(y) {
                *p = simd.mul_add_e_f32s(*x, *y, *p);
            }
        }
        for ((p, x), y) in partial.iter_mut().zip(x_last).zip(y_last) {
            *p = simd.mul_add_e_f32s(x, y, *p);
        }
        fold(simd, partial)
    }
}

/// The sum of the partial sums: the second half is added to the first, again and again.
#[inline(always)]
fn fold<S: Simd, const N: usize>(simd: S, mut partial: [S::f32s; N]) -> f32 {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            partial[i] = simd.add_f32s(partial[i], partial[i + n]);
        }
    }
    let mut lanes = [0.0; 16];
    let count = S::F32_LANES.min(16);
    lanes[..count].copy_from_slice(&bytemuck::cast_slice(&partial[..1])[..count]);
    let mut n = count;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}
