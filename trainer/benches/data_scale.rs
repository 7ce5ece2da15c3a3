//! The data plane at full size, by the code that trains: 15 million utterances in 10,000 shards, opened and planned for 512 ranks over
//! an epoch.
//!
//!     cargo bench --workspace --features echat/mpi --bench data_scale
//!
//! Writes some 700 MB below the temporary directory: the shards are real but for their audio, which is a hole in the file (1.1 TB that
//! take no space, 10,000 h). Prints a Markdown table and fails if a goal is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use echat::data::corpus::Sight;
use echat::data::shard::{Index, LENGTHS_FILE, ShardInfo};
use echat::data::{Corpus, CorpusOptions, Placement, Sampler, SamplerOptions, Target};
use echat_kernels::rng::{key, uniform};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Map, Value, json};

const SHARDS: u64 = 10_000;
const UTTERANCES: u64 = 1_500;
const RANKS: usize = 512;
/// 30 s a rank.
const BATCH_SECONDS: f64 = 30.0 * RANKS as f64;

/// Samples of an utterance: 0.4 s to 16 s, most short, 2.4 s on average.
fn samples(number: u64) -> u64 {
    let [a, b, c] = [1, 2, 3].map(|stream| uniform(key(stream, number)));
    ((0.45 + 15.55 * a * b * c) * 16_000.0) as u64
}

/// A character in a quarter of a second.
fn characters(number: u64) -> u64 {
    1 + samples(number) / 4000
}

fn offsets(lengths: impl Iterator<Item = u64>) -> Vec<u8> {
    let ends = lengths.scan(0, |sum, length| {
        *sum += length;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).flat_map(u64::to_le_bytes).collect()
}

/// A shard as `ShardWriter` lays it out, with a hole for the audio.
fn write_shard(path: &Path, shard: u64) -> ShardInfo {
    let first = shard * UTTERANCES;
    let numbers = || first..first + UTTERANCES;
    let total: u64 = numbers().map(samples).sum();
    let ids: String = numbers().map(|n| format!("utt{n:09}")).collect();
    let text: String = numbers().map(|n| "好".repeat(characters(n) as usize)).collect();
    let zeros = vec![0; 4 * UTTERANCES as usize];
    let tensors = [
        ("audio_offsets", "U64", UTTERANCES + 1, offsets(numbers().map(samples))),
        ("id_offsets", "U64", UTTERANCES + 1, offsets(numbers().map(|_| 12))),
        ("text_offsets", "U64", UTTERANCES + 1, offsets(numbers().map(|n| 3 * characters(n)))),
        ("crc32", "U32", UTTERANCES, zeros),
        ("audio", "I16", total, Vec::new()),
        ("id", "U8", ids.len() as u64, ids.into_bytes()),
        ("text", "U8", text.len() as u64, text.into_bytes()),
    ];
    let size = |name: &str, bytes: &[u8]| if name == "audio" { 2 * total } else { bytes.len() as u64 };
    let crc32: BTreeMap<_, _> = tensors.iter().map(|(name, _, _, bytes)| (*name, crc32fast::hash(bytes))).collect();
    let own = json!({"version": 1, "utterances": UTTERANCES, "sample_rate": 16_000, "crc32": crc32});
    let (mut header, mut at) = (Map::new(), 0);
    header.insert("__metadata__".into(), json!({"echat_shard": own.to_string()}));
    for (name, dtype, len, bytes) in &tensors {
        let end = at + size(name, bytes);
        header.insert((*name).into(), json!({"dtype": dtype, "shape": [len], "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    for (name, _, _, bytes) in &tensors {
        match *name {
            "audio" => drop(file.seek(SeekFrom::Current(2 * total as i64)).unwrap()),
            _ => file.write_all(bytes).unwrap(),
        }
    }
    ShardInfo { file: path.file_name().unwrap().to_str().unwrap().into(), utterances: UTTERANCES, samples: total }
}

fn write_corpus(dir: &Path) {
    let shard = |i| write_shard(&dir.join(format!("shard-{i:05}.safetensors")), i);
    let shards: Vec<ShardInfo> = (0..SHARDS).map(shard).collect();
    let samples = shards.iter().map(|shard| shard.samples).sum();
    let index = Index { version: 1, utterances: SHARDS * UTTERANCES, samples, shards };
    write_lengths(dir);
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

/// `lengths.safetensors`, as `ShardWriter` writes it.
fn write_lengths(dir: &Path) {
    let column = |length: &dyn Fn(u64) -> u64| -> Vec<u8> {
        (0..SHARDS * UTTERANCES).flat_map(|n| (length(n) as u32).to_le_bytes()).collect()
    };
    let columns = [("samples", column(&samples)), ("text", column(&|n| 3 * characters(n)))];
    let crc32: BTreeMap<_, _> = columns.iter().map(|(name, bytes)| (*name, crc32fast::hash(bytes))).collect();
    let own = json!({"version": 1, "utterances": SHARDS * UTTERANCES, "sample_rate": 16_000, "crc32": crc32});
    let metadata = HashMap::from([("echat_shard".to_string(), own.to_string())]);
    let view = |bytes| TensorView::new(Dtype::U32, vec![(SHARDS * UTTERANCES) as usize], bytes).unwrap();
    let views = columns.iter().map(|(name, bytes)| (*name, view(bytes)));
    serialize_to_file(views, Some(metadata), &dir.join(LENGTHS_FILE)).unwrap();
}

/// Every shard on one of 64 nodes of 8 ranks, for a rank of the first.
fn node_local(dir: &Path) -> Placement {
    let (all, indexes) = Sight::of(&[dir.into()], String::new()).unwrap();
    let sight = |rank: usize| {
        let (mut sight, node) = (all.clone(), rank / 8);
        sight.host = format!("node{node:02}");
        sight.shards[0].iter_mut().enumerate().for_each(|(i, sees)| *sees = i % (RANKS / 8) == node);
        sight
    };
    Placement::of(&[dir.into()], &indexes, &(0..RANKS).map(sight).collect::<Vec<_>>(), 0).unwrap()
}

/// `VmRSS` or `VmHWM` in MiB.
fn memory(what: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Steps of an epoch, and over them the mean and the worst of the busiest rank's load over the mean.
fn simulate(sampler: &Sampler, utterances: usize, ranks: &[u32]) -> (f64, f64) {
    let (mut seen, mut count) = (vec![false; utterances], 0);
    let (mut mean, mut worst) = (0.0, 0.0f64);
    let steps = sampler.steps_per_epoch();
    for step in 0..steps {
        let shares = sampler.at(step).shares(ranks);
        let loads: Vec<f64> = shares.iter().map(|s| s.iter().map(|i| f64::from(i.cost.seconds)).sum()).collect();
        let imbalance = loads.iter().cloned().fold(0.0, f64::max) * RANKS as f64 / loads.iter().sum::<f64>();
        mean += imbalance / steps as f64;
        worst = worst.max(imbalance);
        for item in shares.iter().flatten() {
            assert!(!std::mem::replace(&mut seen[item.utterance as usize], true), "{item:?} comes twice");
            count += 1;
        }
    }
    assert_eq!(count, utterances, "every utterance comes once");
    (mean, worst)
}

/// Milliseconds to plan steps here and there over a thousand epochs, and a rank's share of them.
fn plan_times(sampler: &Sampler) -> Vec<f64> {
    let time = |i: u64| {
        let step = key(9, i) % (1000 * sampler.steps_per_epoch());
        let begun = Instant::now();
        assert!(!sampler.at(step).shares(&[0; RANKS]).swap_remove(i as usize).is_empty());
        begun.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..200).map(time).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// A corpus opened, its order laid out, and what that took.
struct Opened {
    corpus: Corpus,
    sampler: Sampler,
    opening: Duration,
    all: Duration,
    /// The largest resident memory on the way, MiB.
    peak: f64,
}

fn open(dir: &Path, placement: Placement) -> Opened {
    let options =
        CorpusOptions { target: Target::Text, min_seconds: 0.1, max_seconds: 30.0, max_bad_share: 0.0, verify: false };
    let order = SamplerOptions { seed: 1, batch_seconds: BATCH_SECONDS, weights: Vec::new(), rates: Vec::new() };
    // Forgets the largest resident memory so far.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let begun = Instant::now();
    let corpus = Corpus::open_placed(&[dir.into()], &options, placement).unwrap();
    let opening = begun.elapsed();
    let sampler = Sampler::new(corpus.costs().clone(), corpus.groups(), &order);
    Opened { corpus, sampler, opening, all: begun.elapsed(), peak: memory("VmHWM") }
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path());
    // Once to have the files in the page cache whatever it held before.
    drop(open(dir.path(), Placement::shared(RANKS)));
    let Opened { corpus, sampler, opening, all, peak } = open(dir.path(), Placement::shared(RANKS));
    let held = memory("VmRSS");
    let times = plan_times(&sampler);
    let begun = Instant::now();
    let (mean, worst) = simulate(&sampler, corpus.len(), &corpus.placement().ranks);
    let simulated = begun.elapsed().as_secs_f64();
    println!("{}; {} steps an epoch\n", corpus.report().summary(), sampler.steps_per_epoch());
    drop((corpus, sampler));
    let local = open(dir.path(), node_local(dir.path()));
    let (local_mean, local_worst) = simulate(&local.sampler, local.corpus.len(), &local.corpus.placement().ranks);

    println!("| | measured | goal |\n|---|---:|---:|");
    println!("| opening 10,000 shards | {:.2} s | |", opening.as_secs_f64());
    println!("| opening and laying out the order | {:.2} s | 5 s |", all.as_secs_f64());
    println!("| resident memory, largest on the way | {peak:.0} MiB | 1024 MiB |");
    println!("| resident memory thereafter | {held:.0} MiB | |");
    let [least, median, most] = [times[0], times[times.len() / 2], times[times.len() - 1]];
    println!("| plan of any step, fastest | {least:.2} ms | |");
    println!("| plan of any step, median of {} | {median:.2} ms | |", times.len());
    println!("| plan of any step, slowest | {most:.2} ms | 50 ms |");
    println!("| imbalance of {RANKS} ranks (max / mean), mean over the epoch | {mean:.4} | 1.05 |");
    println!("| the same, worst step | {worst:.4} | |");
    println!("| every utterance of the epoch exactly once | yes ({simulated:.1} s for all steps) | yes |");
    println!("| shards on 64 nodes by turns: opening and laying out | {:.2} s | 5 s |", local.all.as_secs_f64());
    println!("| the same, largest resident memory on the way | {:.0} MiB | 1024 MiB |", local.peak);
    println!("| the same, imbalance, mean over the epoch | {local_mean:.4} | |");
    println!("| the same, imbalance, worst step | {local_worst:.4} | |");
    println!("| the same, every utterance of the epoch exactly once | yes | yes |");
    assert!(all <= Duration::from_secs(5) && peak <= 1024.0 && most <= 50.0 && mean <= 1.05, "a goal is missed");
    assert!(local.all <= Duration::from_secs(5) && local.peak <= 1024.0, "a goal is missed node-local");
}
