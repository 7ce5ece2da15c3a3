//! A 64-bit hash of a tensor's elements, the same on every device: what weights are known by.
//!
//! Elements count by their bits as f32 (bf16 widens exactly), two to a word. Each word is mixed with its place and all are added modulo 2^64: the order of the
//! additions does not matter, that of the elements does. Nothing is equal but what has the same bits: `-0.0` is not `0.0`, and a NaN counts by its payload.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::{Result, rng};

const OP: &str = "checksum";

/// The checksum of each of `tensors` (contiguous, f32 or bf16, all on one device). All are read back at once: on a GPU this waits once.
///
/// Errors: another dtype, a tensor that is not contiguous, tensors on several devices.
pub fn checksums(tensors: &[&Tensor]) -> Result<Vec<u64>> {
    let sums = sums(tensors)?;
    Ok(sums.into_iter().zip(tensors).map(|(sum, t)| finish(sum, t.elem_count())).collect())
}

fn sums(tensors: &[&Tensor]) -> Result<Vec<u64>> {
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if tensors.first().is_some_and(|t| crate::cuda::takes(t)) {
        return cuda::sums(tensors);
    }
    tensors.iter().map(|t| cpu::sum(t)).collect()
}

/// The odd number nearest 2^64 / φ: multiples of it are spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What word `i`, of the elements' bits `low` and `high`, adds to the sum.
#[inline(always)]
fn term(low: u32, high: u32, i: u64) -> u64 {
    let word = u64::from(high) << 32 | u64::from(low);
    rng::mix(word.wrapping_add((i + 1).wrapping_mul(GOLDEN)))
}

/// The checksum of `count` elements whose words add up to `sum`: half a word that is not there is a zero, which only the count tells from one that is.
fn finish(sum: u64, count: usize) -> u64 {
    rng::key(sum, count as u64)
}
