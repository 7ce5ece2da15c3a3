//! Checksums on the CPU, in pieces by several threads.

use candle_core::{CpuStorage, Storage, Tensor};

use super::{OP, term};
use crate::parallel::map;
use crate::simd::run;
use crate::{Error, Result};

/// Elements a thread takes at a time: even, so that no word is cut.
const PIECE: usize = 1 << 16;

/// The sum over the words of `t`.
pub(super) fn sum(t: &Tensor) -> Result<u64> {
    let (storage, layout) = t.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Value { op: OP, message: format!("operand of shape {:?} is not contiguous", t.shape()) });
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(x)) => Ok(sum_of(&x[start..end], |x| x.to_bits())),
        Storage::Cpu(CpuStorage::BF16(x)) => Ok(sum_of(&x[start..end], |x| u32::from(x.to_bits()) << 16)),
        Storage::Cpu(_) => Err(Error::DType { op: OP, dtype: t.dtype() }),
        _ => Err(Error::Device { op: OP, device: format!("{:?}", t.device()) }),
    }
}

fn sum_of<T: Copy + Sync>(x: &[T], bits: impl Fn(T) -> u32 + Sync) -> u64 {
    let piece = |i: usize| {
        let part = &x[i * PIECE..x.len().min((i + 1) * PIECE)];
        run(
            #[inline(always)]
            || sum_of_piece(part, (i * PIECE / 2) as u64, &bits),
        )
    };
    map(x.len().div_ceil(PIECE), x.len(), piece).into_iter().fold(0, u64::wrapping_add)
}

/// Of elements that begin with word `first`.
#[inline(always)]
fn sum_of_piece<T: Copy>(x: &[T], first: u64, bits: impl Fn(T) -> u32) -> u64 {
    let (pairs, rest) = x.as_chunks::<2>();
    let mut sum = 0u64;
    for (i, &[low, high]) in pairs.iter().enumerate() {
        sum = sum.wrapping_add(term(bits(low), bits(high), first + i as u64));
    }
    match rest {
        [low] => sum.wrapping_add(term(bits(*low), 0, first + pairs.len() as u64)),
        _ => sum,
    }
}
