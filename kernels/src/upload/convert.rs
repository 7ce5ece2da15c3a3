//! Numbers of files as numbers of tensors.

use candle_core::DType;
use half::bf16;

use crate::simd::{from_bf16, run, to_bf16};

/// Writes what the little-endian bytes of a file hold, in the same number of elements, to the bytes of a tensor.
pub type Conversion = fn(&[u8], &mut [u8]);

/// From `stored` (f16, bf16, f32 or f64) to `dtype` (f32 or bf16), rounded to nearest even; `None` for any other two. Both slices must hold as many elements.
pub fn conversion(stored: DType, dtype: DType) -> Option<Conversion> {
    Some(match (stored, dtype) {
        (DType::F32, DType::F32) | (DType::BF16, DType::BF16) => |bytes, out| out.copy_from_slice(bytes),
        (DType::F32, DType::BF16) => |bytes, out| each(bytes, out, |x| narrow(f32::from_le_bytes(x))),
        (DType::BF16, DType::F32) => |bytes, out| {
            each(bytes, out, |x| from_bf16(bf16::from_bits(u16::from_le_bytes(x))).to_le_bytes());
        },
        (DType::F16, DType::F32) => |bytes, out| each(bytes, out, |x| from_f16(u16::from_le_bytes(x)).to_le_bytes()),
        (DType::F16, DType::BF16) => |bytes, out| each(bytes, out, |x| narrow(from_f16(u16::from_le_bytes(x)))),
        (DType::F64, DType::F32) => |bytes, out| each(bytes, out, |x| (f64::from_le_bytes(x) as f32).to_le_bytes()),
        (DType::F64, DType::BF16) => |bytes, out| {
            each(bytes, out, |x| bf16::from_f64(f64::from_le_bytes(x)).to_le_bytes());
        },
        _ => return None,
    })
}

/// Elements of `A` bytes to elements of `B`.
#[inline(always)]
fn each<const A: usize, const B: usize>(bytes: &[u8], out: &mut [u8], f: impl Fn([u8; A]) -> [u8; B]) {
    let (from, to) = (bytes.as_chunks::<A>().0, out.as_chunks_mut::<B>().0);
    run(
        #[inline(always)]
        || from.iter().zip(to).for_each(|(x, y)| *y = f(*x)),
    );
}

#[inline(always)]
fn narrow(x: f32) -> [u8; 2] {
    to_bf16(x).to_bits().to_le_bytes()
}

/// The f16 of these bits, exactly: `f16::to_f32` without branches.
#[inline(always)]
fn from_f16(bits: u16) -> f32 {
    /// 2^112: how much further below 1 exponents of f32 begin.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let size = u32::from(bits & 0x7fff);
    let finite = (f32::from_bits(size << 13) * SCALE).to_bits();
    // An infinity, or a NaN that keeps its payload and becomes quiet.
    let quiet = if size > 0x7c00 { 0x0040_0000 } else { 0 };
    let other = 0x7f80_0000 | size << 13 | quiet;
    f32::from_bits(sign | if size < 0x7c00 { finite } else { other })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use half::f16;

    use super::*;

    fn converted(stored: DType, dtype: DType, bytes: &[u8]) -> Vec<u8> {
        let count = bytes.len() / stored.size_in_bytes();
        let mut out = vec![0xff; count * dtype.size_in_bytes()];
        conversion(stored, dtype).unwrap()(bytes, &mut out);
        out
    }

    fn bytes<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
        values.into_iter().flatten().collect()
    }

    /// All of them: zeros, subnormal numbers, infinities and every NaN.
    #[test]
    fn every_half_is_what_half_says() {
        let all = || (0..=u16::MAX).map(u16::to_le_bytes);
        let halves = || (0..=u16::MAX).map(f16::from_bits);
        let want = bytes(halves().map(|x| x.to_f32().to_le_bytes()));
        assert!(converted(DType::F16, DType::F32, &bytes(all())) == want);
        let want = bytes(halves().map(|x| bf16::from_f32(x.to_f32()).to_le_bytes()));
        assert!(converted(DType::F16, DType::BF16, &bytes(all())) == want);
        let want = bytes((0..=u16::MAX).map(|x| (u32::from(x) << 16).to_le_bytes()));
        assert!(converted(DType::BF16, DType::F32, &bytes(all())) == want);
        assert!(converted(DType::BF16, DType::BF16, &bytes(all())) == bytes(all()));
    }

    #[test]
    fn wide_numbers_round_to_nearest_even() {
        let special = [0.0, -0.0, 1.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let ties = (0..5000u32).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        let values: Vec<f32> = special.into_iter().chain(ties).chain((0..7001).map(|i| (i as f32).sin())).collect();
        let singles = bytes(values.iter().map(|x| x.to_le_bytes()));
        let doubles = bytes(values.iter().map(|&x| (f64::from(x) * 1.000_000_01).to_le_bytes()));
        assert_eq!(converted(DType::F32, DType::F32, &singles), singles);
        let want = bytes(values.iter().map(|&x| bf16::from_f32(x).to_le_bytes()));
        assert_eq!(converted(DType::F32, DType::BF16, &singles), want);
        let wide = || values.iter().map(|&x| f64::from(x) * 1.000_000_01);
        assert_eq!(converted(DType::F64, DType::F32, &doubles), bytes(wide().map(|x| (x as f32).to_le_bytes())));
        assert_eq!(
            converted(DType::F64, DType::BF16, &doubles),
            bytes(wide().map(|x| bf16::from_f64(x).to_le_bytes()))
        );
    }

    #[test]
    fn what_is_no_float_is_not_converted() {
        assert!(conversion(DType::I64, DType::F32).is_none());
        assert!(conversion(DType::F32, DType::F16).is_none());
    }
}
