//! A step's utterances over ranks, and a rank's over micro-batches.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Cost, Item};

/// What a micro-batch may hold, at most; a single utterance may be dearer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Seconds of speech, which encoder frames are proportional to.
    pub seconds: f64,
    /// Target tokens; 0 for any number.
    pub tokens: u64,
}

impl Budget {
    fn holds(&self, (seconds, tokens): (f64, u64)) -> bool {
        seconds <= self.seconds && (self.tokens == 0 || tokens <= self.tokens)
    }
}

/// Divides `items` over `world` ranks so that their seconds are nearly equal: no two ranks differ by more than the dearest
/// utterance. Dearest first, each to the rank with least (Graham 1969); ties go to the lower number.
pub fn assign(items: &[Item], world: usize) -> Vec<Vec<Item>> {
    let mut shares = vec![Vec::new(); world];
    // The bits of floats that are not negative sort as their values do.
    let mut loads: BinaryHeap<_> = (0..world).map(|rank| Reverse((0.0f64.to_bits(), rank))).collect();
    for item in dearest_first(items) {
        let Some(mut least) = loads.peek_mut() else { break };
        let Reverse((load, rank)) = &mut *least;
        shares[*rank].push(item);
        *load = (f64::from_bits(*load) + f64::from(item.cost.seconds)).to_bits();
    }
    shares
}

/// Divides one rank's `items` into micro-batches of at most `budget`, an utterance dearer than that being one of its own. Dearest
/// first, each into the first that has room for it.
pub fn micro_batches(items: &[Item], budget: Budget) -> Vec<Vec<Item>> {
    let mut batches: Vec<((f64, u64), Vec<Item>)> = Vec::new();
    let with = |sum: (f64, u64), cost: Cost| (sum.0 + f64::from(cost.seconds), sum.1 + u64::from(cost.tokens));
    for item in dearest_first(items) {
        match batches.iter_mut().find(|(sum, _)| budget.holds(with(*sum, item.cost))) {
            Some((sum, batch)) => {
                *sum = with(*sum, item.cost);
                batch.push(item);
            }
            None => batches.push((with((0.0, 0), item.cost), vec![item])),
        }
    }
    batches.into_iter().map(|(_, batch)| batch).collect()
}

fn dearest_first(items: &[Item]) -> Vec<Item> {
    let mut sorted = items.to_vec();
    sorted.sort_unstable_by(|a, b| b.cost.seconds.total_cmp(&a.cost.seconds).then(a.utterance.cmp(&b.utterance)));
    sorted
}
