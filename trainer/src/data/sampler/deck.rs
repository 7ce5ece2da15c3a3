//! One group's utterances, sorted once and dealt to the steps of any epoch.

use std::ops::Range;

use rayon::slice::ParallelSliceMut;

use super::{Cost, permute};

/// Halvings in the search for how full steps may be: to the last bit.
const HALVINGS: usize = 52;

/// Utterances, dearest first.
#[derive(Debug)]
pub(super) struct Deck(Vec<u32>);

impl Deck {
    /// The utterances in `ranges`, dearest first, then by number.
    pub(super) fn new<'a>(costs: &[Cost], ranges: impl Iterator<Item = &'a Range<u32>>) -> Self {
        // The bits of floats that are not negative sort as their values do.
        let key = |u: u32| u64::from(!costs[u as usize].seconds.to_bits()) << 32 | u64::from(u);
        let mut keys: Vec<u64> = ranges.cloned().flatten().map(key).collect();
        keys.par_sort_unstable();
        Self(keys.into_iter().map(|key| key as u32).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What step `place` of an epoch of `steps` steps takes: one of each `steps` utterances, as the epoch's `stream` draws.
    pub(super) fn deal(&self, stream: u64, steps: u64, place: u64) -> impl Iterator<Item = u32> {
        let strata = (self.0.len() as u64).div_ceil(steps);
        let draw = move |i: u64| i * steps + permute(echat_kernels::rng::key(stream, i), steps, place);
        // The last stratum is short: some steps take nothing from it.
        (0..strata).filter_map(move |i| self.0.get(draw(i) as usize).copied())
    }

    /// The cost of the dearest step there can be among `steps`; of one step, of all there is.
    fn dearest(&self, costs: &[Cost], steps: u64) -> f64 {
        self.0.iter().step_by(steps as usize).map(|&u| f64::from(costs[u as usize].seconds)).sum()
    }
}

/// How many steps an epoch of each component has: as few as keep the dearest step there can be, over all components together,
/// within `cap`, and so that component `i` has `shares[i]` of the seconds of a step on average. A component, given as the decks of
/// its nodes, has at most as many steps as utterances in its largest deck, 0 if it has none; so a cap smaller than an utterance
/// gives steps of one.
pub(super) fn steps(components: &[Vec<&Deck>], shares: &[f64], costs: &[Cost], cap: f64) -> Vec<u64> {
    let dearest = |decks: &[&Deck], steps| decks.iter().map(|deck| deck.dearest(costs, steps)).sum::<f64>();
    let totals: Vec<f64> = components.iter().map(|decks| dearest(decks, 1)).collect();
    let most = |decks: &[&Deck]| decks.iter().map(|deck| deck.0.len() as u64).max().unwrap_or(0);
    // If steps hold `fill` of the cap on average.
    let counts = |fill: f64| -> Vec<u64> {
        let wanted = totals.iter().zip(shares).map(|(total, share)| (total / (fill * share * cap)).ceil() as u64);
        wanted.zip(components).map(|(wanted, decks)| wanted.max(1).min(most(decks))).collect()
    };
    let fits = |counts: &[u64]| {
        let each = components.iter().zip(counts).filter(|(_, steps)| **steps > 0);
        each.map(|(decks, &steps)| dearest(decks, steps)).sum::<f64>() <= cap
    };
    if fits(&counts(1.0)) {
        return counts(1.0);
    }
    // The dearest step never gets dearer with more steps.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if fits(&counts(middle)) { low = middle } else { high = middle }
    }
    counts(low)
}
