//! Every utterance once an epoch, caps kept, steps found without a walk, ranks balanced, mixtures at their shares.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashSet;

use echat::data::audio::SAMPLE_RATE;
use echat::data::sampler::{
    Budget, Cost, Group, Item, Sampler, SamplerOptions, StepPlan, assign, micro_batches, permute,
};
use echat_kernels::rng::{key, uniform};
use proptest::prelude::*;

fn costs(seconds: &[f32]) -> Vec<Cost> {
    seconds.iter().enumerate().map(|(i, &seconds)| Cost { seconds, tokens: 1 + i as u32 % 7 }).collect()
}

fn options(seed: u64, batch_seconds: f64) -> SamplerOptions {
    SamplerOptions { seed, batch_seconds, weights: Vec::new(), rates: Vec::new() }
}

/// All of `seconds` as one group.
fn sampler(seconds: &[f32], seed: u64, cap: f64) -> Sampler {
    Sampler::new(costs(seconds).into(), &[Group::whole(seconds.len() as u32)], &options(seed, cap))
}

fn items(seconds: &[f32]) -> Vec<Item> {
    let item = |(i, cost)| Item { utterance: i as u32, cost, rate: SAMPLE_RATE };
    costs(seconds).into_iter().enumerate().map(item).collect()
}

fn sum(items: &[Item]) -> f64 {
    items.iter().map(|item| f64::from(item.cost.seconds)).sum()
}

fn numbers<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<u32> {
    items.into_iter().map(|item| item.utterance).collect()
}

fn once_each(mut seen: Vec<u32>, count: usize) -> bool {
    seen.sort_unstable();
    seen.into_iter().eq(0..count as u32)
}

/// The steps of one epoch.
fn epoch(sampler: &Sampler, epoch: u64) -> Vec<StepPlan> {
    let steps = sampler.steps_per_epoch();
    (epoch * steps..(epoch + 1) * steps).map(|step| sampler.at(step)).collect()
}

fn lengths() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(0.1f32..30.0, 1..400),
        prop::collection::vec(Just(2.5f32), 1..100),
        prop::collection::vec(prop_oneof![0.1f32..1.0, 20.0f32..30.0], 1..200),
    ]
}

proptest! {
    #[test]
    fn an_epoch_holds_every_utterance_once(seconds in lengths(), seed: u64, number in 0u64..1000, cap in 1.0f64..200.0) {
        let steps = epoch(&sampler(&seconds, seed, cap), number);
        let single = |step: &StepPlan| step.items().count() == 1;
        prop_assert!(steps.iter().all(|step| single(step) || step.seconds() <= cap * (1.0 + 1e-9)));
        prop_assert!(once_each(steps.iter().flat_map(|step| numbers(step.items())).collect(), seconds.len()));
        // No step is dearer than another by more than the dearest utterance.
        let sums: Vec<f64> = steps.iter().map(StepPlan::seconds).collect();
        let spread = sums.iter().cloned().fold(f64::MIN, f64::max) - sums.iter().cloned().fold(f64::MAX, f64::min);
        prop_assert!(spread <= f64::from(seconds.iter().cloned().fold(0.0, f32::max)) * (1.0 + 1e-6), "spread {}", spread);
    }

    #[test]
    fn any_step_of_any_epoch_is_found_at_once(seconds in lengths(), seed: u64, cap in 1.0f64..200.0) {
        let sampler = sampler(&seconds, seed, cap);
        let steps = sampler.steps_per_epoch();
        for epoch in [0u64, 1, 2, 7, 1_000_000_000] {
            for s in [0, steps - 1] {
                let at = sampler.at(epoch * steps + s);
                prop_assert_eq!((at.epoch, at.step_in_epoch), (epoch, s));
                prop_assert_eq!(&at, &sampler.at(epoch * steps + s));
            }
        }
    }

    #[test]
    fn ranks_share_a_step_evenly(seconds in lengths(), world in 1usize..9) {
        let shares = assign(&items(&seconds), world);
        prop_assert_eq!(shares.len(), world);
        prop_assert!(once_each(numbers(shares.iter().flatten()), seconds.len()));
        let loads: Vec<f64> = shares.iter().map(|s| sum(s)).collect();
        let spread = loads.iter().cloned().fold(f64::MIN, f64::max) - loads.iter().cloned().fold(f64::MAX, f64::min);
        let dearest = f64::from(seconds.iter().cloned().fold(0.0, f32::max));
        prop_assert!(spread <= dearest * (1.0 + 1e-9), "spread {} dearest {}", spread, dearest);
    }

    #[test]
    fn micro_batches_keep_their_caps(seconds in lengths(), cap in 1.0f64..100.0, tokens in 0u64..40) {
        let parts = micro_batches(&items(&seconds), Budget { seconds: cap, tokens });
        prop_assert!(once_each(numbers(parts.iter().flatten()), seconds.len()));
        let held = |part: &[Item]| part.iter().map(|item| u64::from(item.cost.tokens)).sum::<u64>();
        for part in &parts {
            let fits = sum(part) <= cap * (1.0 + 1e-9) && (tokens == 0 || held(part) <= tokens);
            prop_assert!(part.len() == 1 || fits, "{} s, {} tokens", sum(part), held(part));
        }
        // No two parts would fit into one, so at most one is less than half full of either.
        let half_empty = |p: &&Vec<Item>| sum(p) <= 0.5 * cap && (tokens == 0 || 2 * held(p) <= tokens);
        let count = parts.iter().filter(half_empty).count();
        prop_assert!(count <= 1, "{} of {}", count, parts.len());
    }

    #[test]
    fn the_order_of_a_step_s_utterances_does_not_matter(seconds in lengths(), world in 1usize..5, cap in 1.0f64..100.0) {
        let all = items(&seconds);
        let reversed: Vec<Item> = all.iter().rev().copied().collect();
        prop_assert_eq!(assign(&all, world), assign(&reversed, world));
        let budget = Budget { seconds: cap, tokens: 9 };
        prop_assert_eq!(micro_batches(&all, budget), micro_batches(&reversed, budget));
    }

    #[test]
    fn a_permutation_hits_every_place_once(stream: u64, n in 1u64..500) {
        prop_assert!(once_each((0..n).map(|x| permute(stream, n, x) as u32).collect(), n as usize));
    }
}

/// Pearson's statistic of `counts` against a uniform distribution, in standard deviations from its mean.
fn chi_square(counts: &[u32]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    let chi: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
    let freedom = counts.len() as f64 - 1.0;
    (chi - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn permutations_are_uniform() {
    let draws = 40_000u64;
    // Of few things, each of all orders comes as often as another.
    for (n, orders) in [(2u64, 2), (3, 6), (4, 24)] {
        let mut counts = vec![0u32; 256];
        for stream in 0..draws {
            let code = (0..n).fold(0, |code, x| code * n + permute(key(1, stream), n, x));
            counts[code as usize] += 1;
        }
        let seen: Vec<u32> = counts.into_iter().filter(|&count| count > 0).collect();
        assert_eq!(seen.len(), orders);
        assert!(chi_square(&seen) < 5.0, "{n}: {seen:?}");
    }
    // Of more, each place of one thing, and each pair of places of two.
    for n in [5u64, 7, 16, 31] {
        for (a, b) in [(0, 1), (0, n - 1), (2, 3)] {
            let (mut one, mut two) = (vec![0u32; n as usize], vec![0u32; (n * n) as usize]);
            for stream in 0..draws {
                let (x, y) = (permute(key(2, stream), n, a), permute(key(2, stream), n, b));
                one[x as usize] += 1;
                two[(x * n + y) as usize] += 1;
            }
            let pairs: Vec<u32> = (0..n * n).filter(|i| i / n != i % n).map(|i| two[i as usize]).collect();
            assert!(
                chi_square(&one) < 5.0 && chi_square(&pairs) < 5.0,
                "{n}: {} {}",
                chi_square(&one),
                chi_square(&pairs)
            );
        }
    }
}

/// Lengths as speech corpora have them: 0.5 to 15 s, most around 4.
fn speech(count: u32) -> Vec<f32> {
    (0..count).map(|i| (0.5 + 14.5 * uniform(key(1, i.into())) * uniform(key(2, i.into()))) as f32).collect()
}

#[test]
fn batches_are_full_and_even() {
    let steps: Vec<f64> = epoch(&sampler(&speech(20_000), 3, 240.0), 0).iter().map(StepPlan::seconds).collect();
    let mean = steps.iter().sum::<f64>() / steps.len() as f64;
    assert!(mean >= 0.96 * 240.0, "batches hold {mean} s of 240 on average");
    let worst = steps.iter().map(|s| (s - mean).abs()).fold(0.0, f64::max);
    assert!(worst <= 0.05 * mean, "a batch is {worst} s off the mean");
}

#[test]
fn a_batch_as_large_as_the_corpus_is_the_corpus() {
    let steps = epoch(&sampler(&[1.0, 2.0, 3.0], 0, 6.0), 0);
    assert_eq!(steps.len(), 1);
    assert!(once_each(numbers(steps[0].items()), 3));
}

#[test]
fn a_batch_smaller_than_an_utterance_is_one_utterance() {
    let steps = epoch(&sampler(&[1.0, 2.0, 3.0], 0, 2.5), 0);
    assert!(steps.len() == 3 && steps.iter().all(|step| step.items().count() == 1));
}

#[test]
fn epochs_and_seeds_differ_and_repeat() {
    let seconds = speech(500);
    let plan = |seed, number| epoch(&sampler(&seconds, seed, 60.0), number);
    let orders = |seed, number| plan(seed, number).iter().map(|step| numbers(step.items())).collect::<Vec<_>>();
    assert_eq!(plan(1, 5), plan(1, 5));
    assert_ne!(orders(1, 5), orders(1, 6));
    assert_ne!(orders(1, 5), orders(2, 5));
    // Who meets whom changes too: of the pairs in one batch of an epoch few meet again in the next.
    let pairs = |number| {
        let steps = orders(1, number);
        let pairs = steps.iter().flat_map(|step| step.iter().flat_map(|&a| step.iter().map(move |&b| (a, b))));
        pairs.filter(|(a, b)| a < b).collect::<HashSet<_>>()
    };
    let (first, second) = (pairs(0), pairs(1));
    let again = first.intersection(&second).count() as f64 / first.len() as f64;
    assert!(again <= 0.2, "{again} of the pairs meet again");
}

#[test]
fn draws_are_pinned() {
    // A run resumed by a later build must see the same order: a change here needs a new data version.
    let steps = epoch(&sampler(&speech(12), 7, 25.0), 3);
    let steps: Vec<_> = steps.iter().map(|step| numbers(step.items())).collect();
    assert_eq!(format!("{steps:?}"), "[[3, 4, 9, 11], [10, 1, 2, 8], [5, 0, 6, 7]]");
}

#[test]
fn no_utterances_is_no_step() {
    let sampler = sampler(&[], 0, 10.0);
    assert_eq!(sampler.steps_per_epoch(), 0);
    assert_eq!(sampler.at(0).items().count(), 0);
}

/// Three entries of 6000, 3000 and 300 utterances, over `nodes` nodes by turns of 100.
fn mixture(nodes: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    for (component, range) in [0..6000u32, 6000..9000, 9000..9300].into_iter().enumerate() {
        for node in 0..nodes {
            let starts = range.clone().step_by(100).skip(node).step_by(nodes);
            groups.push(Group { component, node, ranges: starts.map(|start| start..start + 100).collect() });
        }
    }
    groups
}

#[test]
fn a_mixture_has_its_shares_at_every_step() {
    let seconds = speech(9300);
    let options = SamplerOptions { weights: vec![2.0, 2.0, 1.0], ..options(1, 400.0) };
    for nodes in [1, 3] {
        let sampler = Sampler::new(costs(&seconds).into(), &mixture(nodes), &options);
        let mut shares = [0.0; 3];
        let mut counts = vec![0u32; 9300];
        for step in epoch(&sampler, 0) {
            assert!(step.seconds() <= 400.0);
            for item in step.items() {
                let component = [6000, 9000, 9300].iter().position(|&end| item.utterance < end).unwrap();
                shares[component] += f64::from(item.cost.seconds);
                counts[item.utterance as usize] += 1;
            }
        }
        let total: f64 = shares.iter().sum();
        let shares = shares.map(|share| share / total);
        for (share, wanted) in shares.iter().zip([0.4, 0.4, 0.2]) {
            // The number of steps of an epoch is whole: of the smallest component about 20.
            assert!((share - wanted).abs() <= 0.015, "{shares:?}");
        }
        // The slowest component comes once; one that is small comes again and again, none of it much more often than the rest.
        assert!(counts[..6000].iter().all(|&count| count == 1));
        let small = &counts[9000..9300];
        let (least, most) = (small.iter().min().unwrap(), small.iter().max().unwrap());
        assert!(*least >= 5 && most - least <= 1, "{least} {most}");
    }
}

#[test]
fn what_lies_on_a_node_goes_to_its_ranks() {
    let seconds = speech(9300);
    let sampler = Sampler::new(costs(&seconds).into(), &mixture(3), &options(1, 400.0));
    let node_of = |utterance: u32| {
        (0..3).find(|&node| {
            mixture(3).iter().any(|g| g.node == node && g.ranges.iter().any(|range| range.contains(&utterance)))
        })
    };
    let mut seen = Vec::new();
    for (i, step) in epoch(&sampler, 2).iter().enumerate() {
        // Ranks as launchers may number them, more on one node than on another.
        let ranks = [0, 1, 1, 2, 0, 1];
        let shares = step.shares(&ranks);
        for (share, node) in shares.iter().zip(ranks) {
            seen.extend(numbers(share));
            if i % 50 == 0 {
                assert!(share.iter().all(|item| node_of(item.utterance) == Some(node as usize)));
            }
        }
        // Another number of ranks changes who does what, not what is done.
        let fewer: HashSet<u32> = numbers(step.shares(&[0, 1, 2]).iter().flatten()).into_iter().collect();
        assert_eq!(fewer, numbers(shares.iter().flatten()).into_iter().collect());
    }
    assert!(once_each(seen, 9300));
}

#[test]
fn speeds_are_drawn_anew_in_each_epoch_and_are_part_of_the_cost() {
    let seconds = vec![4.0f32; 6000];
    let all = [Group::whole(6000)];
    let perturbed = SamplerOptions { rates: vec![14_400, 16_000, 17_600], ..options(3, 400.0) };
    let sampler = Sampler::new(costs(&seconds).into(), &all, &perturbed);
    let plain = Sampler::new(costs(&seconds).into(), &all, &options(3, 400.0));
    let rates = |number| {
        let mut rates = vec![0; 6000];
        for (step, unchanged) in epoch(&sampler, number).iter().zip(epoch(&plain, number)) {
            assert_eq!(numbers(step.items()), numbers(unchanged.items()), "speeds change no order");
            for item in step.items() {
                rates[item.utterance as usize] = item.rate;
                let wanted = 4.0 * 16_000.0 / item.rate as f32;
                assert!((item.cost.seconds - wanted).abs() <= 1.0 / 16_000.0, "{item:?}");
            }
        }
        rates
    };
    let (first, second) = (rates(0), rates(1));
    let counts = [14_400, 16_000, 17_600].map(|rate| first.iter().filter(|&&r| r == rate).count() as u32);
    assert!(counts.iter().sum::<u32>() == 6000 && chi_square(&counts) < 5.0, "{counts:?}");
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!((1800..2200).contains(&same), "{same} of 6000 at the same speed again");
}

/// A small form of `benches/data_scale.rs`: the same questions, put to the same code.
#[test]
fn many_ranks_are_balanced_over_an_epoch() {
    let seconds = speech(60_000);
    let sampler = sampler(&seconds, 1, 128.0 * 30.0);
    let (mut seen, mut imbalance, ranks) = (Vec::new(), 0.0, vec![0; 128]);
    for step in epoch(&sampler, 0) {
        let shares = step.shares(&ranks);
        let loads: Vec<f64> = shares.iter().map(|share| sum(share)).collect();
        let mean = loads.iter().sum::<f64>() / 128.0;
        imbalance += loads.iter().cloned().fold(0.0, f64::max) / mean / sampler.steps_per_epoch() as f64;
        seen.extend(numbers(shares.iter().flatten()));
    }
    assert!(once_each(seen, 60_000));
    assert!(imbalance <= 1.05, "the busiest rank does {imbalance} times the mean");
}
