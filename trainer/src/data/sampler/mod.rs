//! Which utterances make a step: a pure function of the seed, the step, the corpus and where it lies, whatever the number of ranks.
//!
//! A global batch is a set of utterances of at most so many seconds. Batches are packed, not padded, so one batch holds utterances
//! of all lengths; what is bucketed by length are the *strata* they are dealt from. The utterances of a [`Group`] are sorted by
//! cost and cut into strata of as many utterances as an epoch has steps; every step takes one from each stratum (the cheapest
//! stratum may be short), and which one is a keyed permutation of the stratum in each epoch ([`permute`]). Hence
//!
//! - every utterance comes exactly once an epoch, and an epoch always has the same number of steps;
//! - all steps cost the same but for less than one utterance, since what a step draws from a stratum costs at most what any step
//!   draws from the one before;
//! - any step of any epoch is found in time proportional to its own utterances, and nothing is kept but the sorted list;
//! - utterances of one stratum, which are as good as equally long, never share a step.
//!
//! Components of a mixture are dealt side by side, each to its share of the step's seconds and at its own pace: one that is small
//! or wanted often begins its next epoch earlier. The groups of a component, one a node, have the same number of steps.

mod deck;
mod permute;
pub mod placement;
mod split;

use std::ops::Range;
use std::sync::Arc;

use echat_kernels::rng;

use super::audio::{SAMPLE_RATE, len_at_rate};
use deck::Deck;

pub use permute::permute;
pub use split::{Budget, assign, micro_batches};

/// What an utterance costs to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Seconds of speech; for a text-only utterance a nominal 0.2 s a token.
    pub seconds: f32,
    /// Target tokens (of a text-only utterance: those it is asked with, too), estimated from the bytes of the text.
    pub tokens: u32,
}

/// Utterances dealt together: those of one part of a mixture on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which entry of the corpus they come from.
    pub component: usize,
    /// Which node has them; 0 if all nodes have everything.
    pub node: usize,
    /// Their numbers.
    pub ranges: Vec<Range<u32>>,
}

impl Group {
    /// `count` utterances that are not divided.
    pub fn whole(count: u32) -> Self {
        Self { component: 0, node: 0, ranges: std::iter::once(0..count).collect() }
    }
}

/// How steps are made.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Of the order.
    pub seed: u64,
    /// Seconds in a step, at most (before speed perturbation).
    pub batch_seconds: f64,
    /// The share of each component in a step's seconds, in any unit; empty: all components are one.
    pub weights: Vec<f64>,
    /// The sample rates, in Hz, that an utterance may be taken to have been recorded at; empty: as it is. See [`Item::rate`].
    pub rates: Vec<u32>,
}

/// An utterance of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// Its number in the corpus.
    pub utterance: u32,
    /// What it costs, played at `rate`.
    pub cost: Cost,
    /// Its samples are taken to be so many a second: more than 16 000 plays it faster.
    pub rate: u32,
}

/// What a step is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// The epoch, from 0: how often every utterance has come. Of a mixture, its slowest component's.
    pub epoch: u64,
    /// The step in its epoch, from 0.
    pub step_in_epoch: u64,
    /// By node, the utterances for its ranks.
    pub nodes: Vec<Vec<Item>>,
}

impl StepPlan {
    /// All of `groups` at once, as they are: for evaluation.
    pub fn whole(costs: &[Cost], groups: &[Group]) -> Self {
        let mut nodes = vec![Vec::new(); nodes(groups)];
        for group in groups {
            let utterances = group.ranges.iter().cloned().flatten();
            nodes[group.node].extend(utterances.map(|u| Item::plain(u, costs)));
        }
        Self { epoch: 0, step_in_epoch: 0, nodes }
    }

    /// The utterances of all ranks.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.nodes.iter().flatten()
    }

    /// Their cost in seconds.
    pub fn seconds(&self) -> f64 {
        self.items().map(|item| f64::from(item.cost.seconds)).sum()
    }

    /// The part of each rank, `ranks[r]` being the node of rank `r`: what lies on a node is dealt to its ranks, evenly by cost.
    pub fn shares(&self, ranks: &[u32]) -> Vec<Vec<Item>> {
        let mut shares = vec![Vec::new(); ranks.len()];
        for (node, items) in self.nodes.iter().enumerate() {
            let here: Vec<usize> = (0..ranks.len()).filter(|&rank| ranks[rank] as usize == node).collect();
            for (rank, share) in here.iter().zip(assign(items, here.len())) {
                shares[*rank] = share;
            }
        }
        shares
    }
}

impl Item {
    fn plain(utterance: u32, costs: &[Cost]) -> Self {
        Self { utterance, cost: costs[utterance as usize], rate: SAMPLE_RATE }
    }

    /// The same played as if recorded at `rate`.
    fn at_rate(mut self, rate: u32) -> Self {
        let hz = f64::from(SAMPLE_RATE);
        let samples = (f64::from(self.cost.seconds) * hz).round() as u64;
        self.cost.seconds = (len_at_rate(samples, rate) as f64 / hz) as f32;
        self.rate = rate;
        self
    }
}

/// One more than the highest node of `groups`.
fn nodes(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.node + 1).max().unwrap_or(1)
}

/// A component of the mixture: by node, its utterances; and its steps in an epoch.
#[derive(Debug)]
struct Component {
    decks: Vec<(usize, Deck)>,
    steps: u64,
}

/// Finds the utterances of any step. Shared by the threads that build batches.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    costs: Arc<[Cost]>,
    components: Vec<Component>,
    rates: Vec<u32>,
    nodes: usize,
}

impl Sampler {
    /// For utterances of `costs`, which `groups` divide.
    pub fn new(costs: Arc<[Cost]>, groups: &[Group], options: &SamplerOptions) -> Self {
        let mixed = !options.weights.is_empty();
        let total: f64 = options.weights.iter().sum();
        let shares = if mixed { options.weights.iter().map(|w| w / total).collect() } else { vec![1.0] };
        let decks = |component: usize| -> Vec<(usize, Deck)> {
            let own = |node| groups.iter().filter(move |g| g.node == node && (!mixed || g.component == component));
            let deck = |node| (node, Deck::new(&costs, own(node).flat_map(|group| group.ranges.iter())));
            (0..nodes(groups)).map(deck).filter(|(_, deck)| !deck.is_empty()).collect()
        };
        let decks: Vec<_> = (0..shares.len()).map(decks).collect();
        let by_component: Vec<Vec<&Deck>> = decks.iter().map(|d| d.iter().map(|(_, deck)| deck).collect()).collect();
        let steps = deck::steps(&by_component, &shares, &costs, options.batch_seconds);
        let components = decks.into_iter().zip(steps).map(|(decks, steps)| Component { decks, steps });
        let components = components.filter(|component| component.steps > 0).collect();
        Self { seed: options.seed, costs, components, rates: options.rates.clone(), nodes: nodes(groups) }
    }

    /// Steps in every epoch; of a mixture, its slowest component's. 0 without utterances.
    pub fn steps_per_epoch(&self) -> u64 {
        self.components.iter().map(|component| component.steps).max().unwrap_or(0)
    }

    /// What makes `step`, counted from the start of training, in time proportional to its utterances.
    pub fn at(&self, step: u64) -> StepPlan {
        let per_epoch = self.steps_per_epoch().max(1);
        let mut nodes = vec![Vec::new(); self.nodes];
        for (i, component) in self.components.iter().enumerate() {
            let (epoch, place) = (step / component.steps, step % component.steps);
            let speeds = self.stream("data.speed", i, epoch);
            for (node, deck) in &component.decks {
                let stream = rng::key(self.stream("data.order", i, epoch), *node as u64);
                let dealt = deck.deal(stream, component.steps, place);
                nodes[*node].extend(dealt.map(|u| self.perturbed(Item::plain(u, &self.costs), speeds)));
            }
        }
        StepPlan { epoch: step / per_epoch, step_in_epoch: step % per_epoch, nodes }
    }

    /// A stream of draws for purpose `site`.
    fn stream(&self, site: &str, component: usize, epoch: u64) -> u64 {
        rng::key(rng::key(rng::key(rng::site(site), self.seed), component as u64), epoch)
    }

    /// Drawn by the utterance's number: it is known of every utterance on every node, without reading anything.
    fn perturbed(&self, item: Item, stream: u64) -> Item {
        let draw = rng::uniform(rng::key(stream, item.utterance.into()));
        match self.rates.get((draw * self.rates.len() as f64) as usize) {
            Some(&rate) if rate != SAMPLE_RATE => item.at_rate(rate),
            _ => item,
        }
    }
}
