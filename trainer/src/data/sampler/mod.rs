//! Which utterances make a step: a pure function of the seed, the step and the corpus, whatever the number of ranks.
//!
//! A global batch is a set of utterances of at most so many seconds. Batches are packed, not padded, so utterances of all
//! lengths share one; what matters is that every step costs about the same and that the number of steps in an
//! epoch does not depend on the epoch, so that a step's place is found by a division (resuming costs nothing).
//!
//! Both follow from drawing lots for *lengths* once and for *utterances* every epoch. Utterances are sorted by cost and divided
//! into strata of near-equal cost. A slot is a place in a stratum, its cost the dearest utterance of the stratum. The
//! slots are shuffled (once, by the seed) and cut into batches. In each epoch the utterances of each stratum are shuffled
//! over its slots, and the batches over the steps.

mod split;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use echat_kernels::rng;
use rayon::slice::ParallelSliceMut;

pub use split::{assign, micro_batches};

/// Utterances in a stratum, at least: so many may come in the place of one another.
const STRATUM: usize = 4;
/// Halvings in the search for the most even cut.
const HALVINGS: usize = 10;

/// What is the same in every epoch: sorted utterances, slots, and where the batches are cut.
#[derive(Debug)]
pub struct Layout {
    seed: u64,
    /// Utterances by cost, then by number.
    by_cost: Vec<u32>,
    /// Strata are ranges of `by_cost`: stratum `i` is `strata[i]..strata[i + 1]`.
    strata: Vec<u32>,
    /// Slots (positions in `by_cost`) in the order of the batches.
    slots: Vec<u32>,
    /// Batch `i` is `slots[cuts[i]..cuts[i + 1]]`.
    cuts: Arc<[u32]>,
}

/// The utterances of every step of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochPlan {
    /// Utterances in the order of the batches.
    utterances: Vec<u32>,
    cuts: Arc<[u32]>,
    /// Which batch each step takes.
    order: Vec<u32>,
}

/// What a step is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in its epoch, from 0.
    pub step_in_epoch: u64,
    /// Utterances of all ranks.
    pub utterances: Vec<u32>,
}

/// A stream of draws for purpose `site`.
fn stream(seed: u64, site: &str, epoch: u64) -> u64 {
    rng::key(rng::key(rng::site(site), seed), epoch)
}

/// Fisher and Yates' shuffle, drawing by position.
fn shuffle(items: &mut [u32], stream: u64) {
    for i in (1..items.len()).rev() {
        let draw = rng::key(stream, i as u64);
        // The high half of the product is uniform over 0..=i (Lemire 2019), up to 2⁻³² or so.
        let j = ((u128::from(draw) * (i as u128 + 1)) >> 64) as usize;
        items.swap(i, j);
    }
}

impl Layout {
    /// For utterances of `costs` (seconds, not negative) in batches of at most `batch_seconds`; a dearer utterance is a batch of its own.
    pub fn new(seed: u64, costs: &[f32], batch_seconds: f64) -> Self {
        let count = costs.len() as u32;
        let mut by_cost: Vec<u32> = (0..count).collect();
        let cost = |&i: &u32| costs[i as usize];
        by_cost.par_sort_unstable_by(|a, b| cost(a).total_cmp(&cost(b)).then(a.cmp(b)));
        // Strata grow as √n: more freedom in a larger corpus, and still ever less difference within one.
        let stratum = (costs.len().isqrt() / 4).max(STRATUM);
        let groups = (costs.len() / stratum).max(1) as u64;
        let strata: Vec<u32> = (0..=groups).map(|g| (g * u64::from(count) / groups) as u32).collect();
        let mut slots: Vec<u32> = (0..count).collect();
        shuffle(&mut slots, stream(seed, "data.slots", 0));
        let total: f64 = costs.iter().map(|&c| f64::from(c)).sum();
        let cuts = if total <= batch_seconds {
            vec![0, count]
        } else {
            let mut dearest = vec![0.0f32; costs.len()];
            for range in strata.windows(2).filter(|range| range[0] < range[1]) {
                let (start, end) = (range[0] as usize, range[1] as usize);
                dearest[start..end].fill(cost(&by_cost[end - 1]));
            }
            let slot_costs: Vec<f32> = slots.iter().map(|&slot| dearest[slot as usize]).collect();
            even_cuts(&slot_costs, batch_seconds)
        };
        let cuts = if count == 0 { vec![0] } else { cuts };
        Self { seed, by_cost, strata, slots, cuts: cuts.into() }
    }

    /// Steps in every epoch.
    pub fn steps(&self) -> usize {
        self.cuts.len() - 1
    }

    /// The plan of epoch `epoch`.
    pub fn epoch(&self, epoch: u64) -> EpochPlan {
        let mut placed = self.by_cost.clone();
        let draws = stream(self.seed, "data.utterances", epoch);
        for (i, range) in self.strata.windows(2).enumerate() {
            shuffle(&mut placed[range[0] as usize..range[1] as usize], rng::key(draws, i as u64));
        }
        let utterances = self.slots.iter().map(|&slot| placed[slot as usize]).collect();
        let mut order: Vec<u32> = (0..self.steps() as u32).collect();
        shuffle(&mut order, stream(self.seed, "data.batches", epoch));
        EpochPlan { utterances, cuts: self.cuts.clone(), order }
    }
}

/// Where to cut `costs` into as few runs of at most `cap` as there can be, and these as even as can be.
fn even_cuts(costs: &[f32], cap: f64) -> Vec<u32> {
    let fewest = cuts(costs, cap).count();
    let total: f64 = costs.iter().map(|&c| f64::from(c)).sum();
    // Utterances dearer than the cap can lift the mean above it.
    let (mut low, mut high) = ((total / fewest as f64).min(cap), cap);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if cuts(costs, middle).count() <= fewest { high = middle } else { low = middle }
    }
    std::iter::once(0).chain(cuts(costs, high)).collect()
}

/// The end of each run, filling one after the other up to `cap`: no other cut has fewer runs.
fn cuts(costs: &[f32], cap: f64) -> impl Iterator<Item = u32> {
    let (mut sum, mut filled) = (0.0, false);
    let ends = costs.iter().enumerate().filter_map(move |(i, &cost)| {
        let cost = f64::from(cost);
        let full = filled && sum + cost > cap;
        sum = if full { cost } else { sum + cost };
        filled = true;
        full.then_some(i as u32)
    });
    ends.chain(std::iter::once(costs.len() as u32))
}

impl EpochPlan {
    /// The plan of one epoch, from nothing. Whoever needs several keeps the [`Layout`].
    pub fn new(seed: u64, epoch: u64, costs: &[f32], batch_seconds: f64) -> Self {
        Layout::new(seed, costs, batch_seconds).epoch(epoch)
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.order.len()
    }

    /// The utterances of step `step`.
    ///
    /// # Panics
    /// If `step` is not below [`EpochPlan::steps`].
    pub fn step(&self, step: usize) -> &[u32] {
        let batch = self.order[step] as usize;
        &self.utterances[self.cuts[batch] as usize..self.cuts[batch + 1] as usize]
    }
}

/// Finds the utterances of any step. Shared by the threads that build batches.
#[derive(Debug)]
pub struct Sampler {
    layout: Layout,
    /// The last epochs asked for: threads may straddle a boundary.
    recent: Mutex<VecDeque<(u64, Arc<EpochPlan>)>>,
}

impl Sampler {
    /// See [`Layout::new`].
    pub fn new(seed: u64, costs: &[f32], batch_seconds: f64) -> Self {
        Self { layout: Layout::new(seed, costs, batch_seconds), recent: Mutex::default() }
    }

    /// Steps in every epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.layout.steps() as u64
    }

    /// What makes `step`, counted from the start of training. A plan is made when its epoch is first asked for (in time
    /// linear in the corpus), never those before it.
    pub fn at(&self, step: u64) -> StepPlan {
        let per_epoch = self.steps_per_epoch().max(1);
        let (epoch, step_in_epoch) = (step / per_epoch, step % per_epoch);
        let plan = self.plan(epoch);
        let utterances = if plan.steps() == 0 { Vec::new() } else { plan.step(step_in_epoch as usize).to_vec() };
        StepPlan { epoch, step_in_epoch, utterances }
    }

    fn plan(&self, epoch: u64) -> Arc<EpochPlan> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = recent.iter().find(|(e, _)| *e == epoch) {
            return plan.clone();
        }
        let plan = Arc::new(self.layout.epoch(epoch));
        recent.push_back((epoch, plan.clone()));
        if recent.len() > 2 {
            recent.pop_front();
        }
        plan
    }
}
