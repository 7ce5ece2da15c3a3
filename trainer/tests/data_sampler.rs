//! Every utterance once an epoch, caps kept, steps found without a walk, ranks balanced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use echat::data::sampler::{EpochPlan, Layout, Sampler, assign, micro_batches};
use proptest::prelude::*;

fn sum(utterances: &[u32], costs: &[f32]) -> f64 {
    utterances.iter().map(|&u| f64::from(costs[u as usize])).sum()
}

fn once_each(mut seen: Vec<u32>, count: usize) -> bool {
    seen.sort_unstable();
    seen.into_iter().eq(0..count as u32)
}

/// Whether every part keeps `cap`, but for single utterances.
fn caps_kept<'a>(parts: impl IntoIterator<Item = &'a [u32]>, costs: &[f32], cap: f64) -> bool {
    parts.into_iter().all(|part| part.len() == 1 || sum(part, costs) <= cap * (1.0 + 1e-9))
}

fn costs() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(0.1f32..30.0, 1..400),
        prop::collection::vec(Just(2.5f32), 1..100),
        prop::collection::vec(prop_oneof![0.1f32..1.0, 20.0f32..30.0], 1..200),
    ]
}

proptest! {
    #[test]
    fn an_epoch_holds_every_utterance_once(costs in costs(), seed: u64, epoch in 0u64..1000, cap in 1.0f64..200.0) {
        let plan = EpochPlan::new(seed, epoch, &costs, cap);
        let steps: Vec<&[u32]> = (0..plan.steps()).map(|s| plan.step(s)).collect();
        prop_assert!(steps.iter().all(|step| !step.is_empty()));
        prop_assert!(caps_kept(steps.iter().copied(), &costs, cap));
        prop_assert!(once_each(steps.concat(), costs.len()));
    }

    #[test]
    fn epochs_have_the_same_number_of_steps(costs in costs(), seed: u64, cap in 1.0f64..200.0) {
        let sampler = Sampler::new(seed, &costs, cap);
        let steps = sampler.steps_per_epoch();
        for epoch in [0u64, 1, 2, 7, 1_000_000] {
            let plan = EpochPlan::new(seed, epoch, &costs, cap);
            prop_assert_eq!(plan.steps() as u64, steps);
            for s in [0, steps - 1] {
                let at = sampler.at(epoch * steps + s);
                prop_assert_eq!((at.epoch, at.step_in_epoch), (epoch, s));
                prop_assert_eq!(&at.utterances[..], plan.step(s as usize));
            }
        }
    }

    #[test]
    fn ranks_share_a_step_evenly(costs in costs(), world in 1usize..9) {
        let all: Vec<u32> = (0..costs.len() as u32).collect();
        let slices = assign(&all, &costs, world);
        prop_assert_eq!(slices.len(), world);
        prop_assert!(once_each(slices.concat(), costs.len()));
        let loads: Vec<f64> = slices.iter().map(|s| sum(s, &costs)).collect();
        let spread = loads.iter().cloned().fold(f64::MIN, f64::max) - loads.iter().cloned().fold(f64::MAX, f64::min);
        let dearest = f64::from(costs.iter().cloned().fold(0.0, f32::max));
        prop_assert!(spread <= dearest * (1.0 + 1e-9), "spread {} dearest {}", spread, dearest);
    }

    #[test]
    fn micro_batches_keep_their_cap(costs in costs(), cap in 1.0f64..100.0) {
        let all: Vec<u32> = (0..costs.len() as u32).collect();
        let parts = micro_batches(&all, &costs, cap);
        prop_assert!(once_each(parts.concat(), costs.len()));
        prop_assert!(caps_kept(parts.iter().map(|p| &p[..]), &costs, cap));
        // No two parts would fit into one, so at most one is less than half full.
        let half_empty = parts.iter().filter(|p| sum(p, &costs) <= 0.5 * cap).count();
        prop_assert!(half_empty <= 1, "{} of {}", half_empty, parts.len());
    }

    #[test]
    fn the_order_of_a_step_s_utterances_does_not_matter(costs in costs(), world in 1usize..5, cap in 1.0f64..100.0) {
        let all: Vec<u32> = (0..costs.len() as u32).collect();
        let reversed: Vec<u32> = all.iter().rev().copied().collect();
        prop_assert_eq!(assign(&all, &costs, world), assign(&reversed, &costs, world));
        prop_assert_eq!(micro_batches(&all, &costs, cap), micro_batches(&reversed, &costs, cap));
    }
}

/// Lengths as speech corpora have them: 0.5 to 15 s, most around 4.
fn speech(count: u32) -> Vec<f32> {
    use echat_kernels::rng::{key, uniform};
    (0..count).map(|i| (0.5 + 14.5 * uniform(key(1, i.into())) * uniform(key(2, i.into()))) as f32).collect()
}

#[test]
fn batches_are_full_and_even() {
    let costs = speech(20_000);
    let plan = EpochPlan::new(3, 0, &costs, 240.0);
    let steps: Vec<f64> = (0..plan.steps()).map(|s| sum(plan.step(s), &costs)).collect();
    let mean = steps.iter().sum::<f64>() / steps.len() as f64;
    assert!(mean >= 0.96 * 240.0, "batches hold {mean} s of 240 on average");
    // A batch is closed when the next utterance (15 s at most) does not fit, and an utterance may come in the place of a
    // dearer one; the last batch takes what is left.
    let worst = steps.iter().map(|s| (s - mean).abs()).fold(0.0, f64::max);
    assert!(worst <= 2.0 * 15.0, "a batch is {worst} s off the mean");
}

#[test]
fn a_batch_as_large_as_the_corpus_is_the_corpus() {
    let costs = [1.0, 2.0, 3.0];
    let plan = EpochPlan::new(0, 0, &costs, 6.0);
    assert_eq!(plan.steps(), 1);
    assert!(once_each(plan.step(0).to_vec(), 3));
}

#[test]
fn epochs_and_seeds_differ_and_repeat() {
    let costs = speech(500);
    let plan = |seed, epoch| EpochPlan::new(seed, epoch, &costs, 60.0);
    assert_eq!(plan(1, 5), plan(1, 5));
    assert_ne!(plan(1, 5), plan(1, 6));
    assert_ne!(plan(1, 5), plan(2, 5));
    // Who meets whom changes too: of the pairs in one batch of an epoch few meet again in the next.
    let layout = Layout::new(1, &costs, 60.0);
    let pairs = |epoch| {
        let plan = layout.epoch(epoch);
        let steps: Vec<Vec<u32>> = (0..plan.steps()).map(|s| plan.step(s).to_vec()).collect();
        let pairs = steps.iter().flat_map(|step| step.iter().flat_map(|&a| step.iter().map(move |&b| (a, b))));
        pairs.filter(|(a, b)| a < b).collect::<std::collections::HashSet<_>>()
    };
    let (first, second) = (pairs(0), pairs(1));
    let again = first.intersection(&second).count() as f64 / first.len() as f64;
    assert!(again <= 0.2, "{again} of the pairs meet again");
}

#[test]
fn draws_are_pinned() {
    // A run resumed by a later build must see the same order: a change here needs a new data version.
    let costs = speech(12);
    let plan = EpochPlan::new(7, 3, &costs, 12.0);
    let steps: Vec<&[u32]> = (0..plan.steps()).map(|s| plan.step(s)).collect();
    assert_eq!(format!("{steps:?}"), "[[1], [5], [7, 9], [4, 8, 6], [10], [3], [2, 0, 11]]");
}

#[test]
fn no_utterances_is_no_step() {
    let sampler = Sampler::new(0, &[], 10.0);
    assert_eq!(sampler.steps_per_epoch(), 0);
    assert!(sampler.at(0).utterances.is_empty());
}

/// `cargo test --release -p echat --test data_sampler -- --ignored --nocapture` prints the figure.
#[test]
#[ignore = "a measurement"]
fn fifteen_million_utterances() {
    let costs = speech(15_000_000);
    let begun = std::time::Instant::now();
    let sampler = Sampler::new(1, &costs, 9600.0);
    let layout = begun.elapsed();
    let at = sampler.at(1_000_000);
    println!(
        "layout {layout:?}, plan of epoch {} {:?}, {} steps an epoch",
        at.epoch,
        begun.elapsed() - layout,
        sampler.steps_per_epoch()
    );
    assert!(!at.utterances.is_empty());
}
