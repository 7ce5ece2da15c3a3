//! Checksums, defined.

use crate::rng;

/// Of elements given by their bits as f32.
pub fn checksum(bits: &[u32]) -> u64 {
    let mut sum = 0u64;
    for (i, pair) in bits.chunks(2).enumerate() {
        let high = pair.get(1).copied().unwrap_or(0);
        let word = u64::from(pair[0]) + (u64::from(high) << 32);
        sum = sum.wrapping_add(rng::mix(word.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    }
    rng::key(sum, bits.len() as u64)
}
