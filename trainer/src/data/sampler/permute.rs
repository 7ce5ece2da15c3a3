//! A permutation that is computed, not stored.

use echat_kernels::rng;

/// Where `x` goes in a random permutation of `0..n` that `stream` draws: each `x` below `n` to another place, in time O(log n) and
/// no memory.
///
/// The swap-or-not shuffle (Hoang, Morris, Rogaway 2012): each round pairs `x` with `k - x` for a random `k` and swaps each pair
/// or not. Any `n` will do, without the cycle walking of a Feistel network.
pub fn permute(stream: u64, n: u64, x: u64) -> u64 {
    let rounds = 24 + 4 * u64::from(u64::BITS - n.leading_zeros());
    (0..rounds).fold(x, |x, round| {
        let draw = rng::key(stream, round);
        // The high half of the product is uniform over 0..n (Lemire 2019).
        let k = ((u128::from(draw) * u128::from(n)) >> 64) as u64;
        let partner = if x <= k { k - x } else { k + n - x };
        if rng::key(draw, x.max(partner)) >> 63 == 1 { partner } else { x }
    })
}
