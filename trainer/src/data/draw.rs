//! Seeded draws: a chain of counter-based keys, so that what one item draws never depends on another.

use echat_kernels::rng;

/// A stream of draws for one item, named by a path of words from the seed.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// The stream of `site` under `seed`.
    pub fn new(seed: u64, site: &str) -> Self {
        Self(rng::key(seed, rng::site(site)))
    }

    /// The stream of item `index` of this one; does not advance it.
    pub fn item(&self, index: usize) -> Self {
        Self(rng::key(self.0, index as u64))
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 = rng::key(self.0, 1);
        rng::uniform(self.0)
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Uniform in `0..n`; 0 for `n = 0`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// An element of a slice; none if it is empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// An index with probability proportional to its weight.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        weights
            .iter()
            .position(|w| {
                left -= w;
                left < 0.0
            })
            .unwrap_or(weights.len().saturating_sub(1))
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
