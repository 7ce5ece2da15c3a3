//! Counter-based randomness: a draw is a pure function of what it is for, never of what was drawn before.
//!
//! A stream key is made by folding (seed, step, sample, site) with [`key`]; element `(row, column)` of that stream is
//! [`bits`]. A resumed, recomputed or re-packed step draws the same numbers.

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection that spreads every bit of `x`.
#[inline(always)]
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Folds `word` into the stream key `key`.
#[inline(always)]
pub const fn key(key: u64, word: u64) -> u64 {
    mix(key.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(word.wrapping_add(0x6a09_e667_f3bc_c909)))
}

/// A stable 64-bit hash of a name (FNV-1a), for naming the site of a draw.
pub const fn site(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// 32 uniform bits for element `(row, column)` of the stream `key`. Two multiplications of 32 bits, so that loops
/// over columns vectorise (the finaliser is "lowbias32" by Chris Wellons).
#[inline(always)]
pub const fn bits(row_key: u32, column: u32) -> u32 {
    let x = row_key ^ column.wrapping_mul(0x9e37_79b9);
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The 32-bit key of row `row` of the stream `key`, for [`bits`].
#[inline(always)]
pub const fn row(stream: u64, row: u64) -> u32 {
    (key(stream, row) >> 32) as u32
}

/// The threshold `t` such that `bits < t` happens with probability `p`, for `p` in [0, 1).
pub fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0).round().min(4_294_967_295.0) as u32
}

/// A uniform f64 in [0, 1) from a stream key.
pub fn uniform(stream: u64) -> f64 {
    (mix(stream) >> 11) as f64 / (1u64 << 53) as f64
}
