//! Loops compiled for the widest vectors the machine has (AVX-512, AVX2 with FMA, NEON), chosen when
//! the program runs.

mod level;
mod reduce;

use half::bf16;

pub use level::{SIMD_VARIABLE, SimdLevel, SimdLevelError, dispatch};
pub use reduce::{dot, sum};

/// The widest vector's f32s, in which other loops are blocked.
pub const LANES: usize = 16;

/// Runs `f` compiled for the calling thread's [`SimdLevel`]. Only what is inlined into `f` gains: mark the closure and the
/// helpers it calls `#[inline(always)]`.
#[inline]
pub fn run<R>(f: impl FnOnce() -> R) -> R {
    dispatch(f)
}

/// Below this `exp` is 0.
const EXP_LOW: f32 = -87.3;
/// Above this `exp` is infinite.
const EXP_HIGH: f32 = 88.37;

/// `e^x` within 2e-7 relative: x = n ln 2 + r, a polynomial of degree 6 in r, times 2^n. 0 below -87.3, infinite above
/// 88.37, NaN for NaN. Vectorises; call it inside [`run`].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // Fitted to the least relative error over |r| <= ln 2 / 2.
    let q = r.mul_add(1.381_446_7e-3, 8.368_781e-3);
    let q = r.mul_add(q, 4.166_839_3e-2);
    let q = r.mul_add(q, 1.666_652e-1);
    let q = r.mul_add(q, 0.499_999_94);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let y = (r * r).mul_add(q, 1.0 + r) * power;
    let y = if x < EXP_LOW { 0.0 } else { y };
    if x > EXP_HIGH { f32::INFINITY } else { y }
}

/// The largest of `x`; -infinity for none. NaN is passed over.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (p, x) in partial.iter_mut().zip(block) {
            *p = if *x > *p { *x } else { *p };
        }
    }
    for (p, x) in partial.iter_mut().zip(rest) {
        *p = if *x > *p { *x } else { *p };
    }
    partial.iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
}

/// `Σ f(x[i])`, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut partial = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            partial[i] += f(block[i]);
        }
    }
    for (p, &x) in partial.iter_mut().zip(rest) {
        *p += f(x);
    }
    partial.iter().sum()
}

/// `Σ f(x[i], y[i])` of two slices of one length, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub fn sum_by2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut partial = [0.0; LANES];
    let ((x_blocks, x_rest), (y_blocks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for i in 0..LANES {
            partial[i] += f(x[i], y[i]);
        }
    }
    for ((p, &x), &y) in partial.iter_mut().zip(x_rest).zip(y_rest) {
        *p += f(x, y);
    }
    partial.iter().sum()
}

/// `Σ f(x[i], y[i], z[i])` of three slices of one length, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub fn sum_by3(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut partial = [0.0; LANES];
    let ((x_blocks, x_rest), (y_blocks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let (z_blocks, z_rest) = z.as_chunks::<LANES>();
    for ((x, y), z) in x_blocks.iter().zip(y_blocks).zip(z_blocks) {
        for i in 0..LANES {
            partial[i] += f(x[i], y[i], z[i]);
        }
    }
    for (((p, &x), &y), &z) in partial.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
        *p += f(x, y, z);
    }
    partial.iter().sum()
}

/// `x` rounded to the nearest bf16, ties to even: `bf16::from_f32` without branches.
#[inline(always)]
pub fn to_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN keeps its payload and becomes quiet: rounding might carry it to infinity.
    let quiet = bits | 0x0040_0000;
    bf16::from_bits(((if x.is_nan() { quiet } else { rounded }) >> 16) as u16)
}

/// `x` as f32, exactly: `bf16::to_f32` without branches.
#[inline(always)]
pub fn from_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// The logistic function `1 / (1 + e^-x)` within 2e-7. Call it inside [`run`].
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The standard normal distribution's `(Φ(x), φ(x))` within 3e-7: Φ by Abramowitz and Stegun 7.1.26 (erf within 1.5e-7),
/// whose exponential is φ's. Call it inside [`run`].
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / x.abs().mul_add(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let series = t.mul_add(1.061_405_4, -1.453_152);
    let series = t.mul_add(series, 1.421_413_7);
    let series = t.mul_add(series, -0.284_496_74);
    let series = t.mul_add(series, 0.254_829_6);
    let beyond = 0.5 * t * series * bell;
    let density = 0.398_942_3 * bell;
    (if x < 0.0 { beyond } else { 1.0 - beyond }, density)
}
