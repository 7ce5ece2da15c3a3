//! How fast the loader fills packed, normalised f32 batches from shards in the page cache, beside a PyTorch DataLoader over the same
//! recordings.
//!
//!     cargo bench --workspace --features echat/mpi --bench loader [-- MANIFEST.jsonl]
//!
//! Without a manifest it makes two hours of 16 kHz wav files below the temporary directory. Both sides have two loader threads or
//! processes and run by turns. Prints a Markdown table; fails if a goal is missed. `ECHAT_PYTHON` names a Python with PyTorch and numpy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use echat::data::prepare::{PrepareOptions, Source, prepare};
use echat::data::{Budget, Corpus, CorpusOptions, Loader, LoaderOptions, Sampler, SamplerOptions, Target};
use echat::dist::{Solo, World};
use echat_kernels::rng::{key, uniform};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const MICRO_BATCH_SECONDS: f64 = 120.0;

/// Two hours of tones and noise in wav files of 0.5 s to 15 s; returns the manifest.
fn recordings(dir: &Path) -> PathBuf {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let (mut manifest, mut seconds) = (String::new(), 0.0);
    for i in 0u64.. {
        if seconds > 2.0 * 3600.0 {
            break;
        }
        let length = 0.5 + 14.5 * uniform(key(1, i)) * uniform(key(2, i));
        let mut wav = hound::WavWriter::create(dir.join(format!("{i}.wav")), spec).unwrap();
        for t in 0..(length * 16_000.0) as u64 {
            wav.write_sample(((key(i, t) >> 52) as i16) + (t * 40 % 8000) as i16).unwrap();
        }
        wav.finalize().unwrap();
        writeln!(manifest, "{{\"audio_filepath\": \"{i}.wav\", \"text\": \"今天天气很好\"}}").unwrap();
        seconds += length;
    }
    let path = dir.join("manifest.jsonl");
    fs::write(&path, manifest).unwrap();
    path
}

/// Hours of audio an hour over an epoch.
fn echat(corpus: &Arc<Corpus>, seed: u64) -> f64 {
    let order = SamplerOptions { seed, batch_seconds: 2.0 * MICRO_BATCH_SECONDS, weights: vec![], rates: vec![] };
    let sampler = Arc::new(Sampler::new(corpus.costs().clone(), corpus.groups(), &order));
    let micro_batch = Budget { seconds: MICRO_BATCH_SECONDS, tokens: 0 };
    let options = LoaderOptions { rank: 0, ranks: vec![0], micro_batch, normalize: true, prefetch: 2, threads: 2 };
    // Several epochs, so that starting does not count for much.
    let steps = 4 * sampler.steps_per_epoch();
    let begun = Instant::now();
    let loader = Loader::new(corpus.clone(), None, sampler, &options, 0..steps).unwrap();
    let seconds: f64 = loader.map(|step| step.unwrap().batches.iter().map(|batch| batch.seconds()).sum::<f64>()).sum();
    seconds / begun.elapsed().as_secs_f64()
}

/// The same of PyTorch with batches made by `collate`, which prints it.
fn pytorch(collate: &str, manifest: &Path) -> Option<f64> {
    let mut python = common::python("torch, numpy", "the PyTorch DataLoader")?;
    let output = python.arg(common::peer("dataloader.py")).arg(collate).arg(manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().ok()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    // Cargo passes `--bench`.
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let manifest = given.map_or_else(|| recordings(dir.path()), PathBuf::from);
    let out = dir.path().join("shards");
    let options = PrepareOptions { max_bad_share: 0.1, ..PrepareOptions::default() };
    let mut solo = Solo::new(World::single("this host"));
    prepare(&[Source::json_lines(&manifest)], &out, &options, &mut solo, &mut |_| {}).unwrap();
    let options =
        CorpusOptions { target: Target::Text, min_seconds: 0.1, max_seconds: 60.0, max_bad_share: 0.0, verify: true };
    let corpus = Arc::new(Corpus::open(&[out], &options).unwrap());
    println!("{}\n", corpus.report().summary());
    let (mut ours, mut padded, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(echat(&corpus, round as u64));
        padded.extend(pytorch("pad", &manifest));
        packed.extend(pytorch("pack", &manifest));
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    };
    let (ours, padded, packed) = (median(ours).unwrap(), median(padded), median(packed));
    println!("| loader | audio-hours per hour, median of {ROUNDS} | echat is so many times as fast |\n|---|---:|---:|");
    println!("| echat, 2 threads, packed, from shards | {ours:.0} | |");
    for (what, rate) in [("padded", padded), ("packed", packed)] {
        let figures = rate.map_or("not run | ".into(), |rate| format!("{rate:.0} | {:.1}", ours / rate));
        println!("| PyTorch DataLoader, 2 workers, {what}, from the same wav files | {figures} |");
    }
    println!("\ngoals: 20000 audio-hours per hour; 10 times the DataLoader that pads, as is usual");
    assert!(ours >= 20_000.0 && padded.is_none_or(|padded| ours >= 10.0 * padded), "a goal is missed");
}
