//! Steps come in order whatever the threads; ranks share them; what cannot be read is skipped up to the share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use echat::data::shard::ShardWriter;
use echat::data::{
    Budget, Corpus, CorpusError, CorpusOptions, Loader, LoaderError, LoaderOptions, Sampler, SamplerOptions, Step,
    Target, Utterance,
};
use tempfile::TempDir;

const STEPS: u64 = 12;

fn options() -> CorpusOptions {
    CorpusOptions { target: Target::Text, min_seconds: 0.0, max_seconds: 30.0, max_bad_share: 0.05, verify: false }
}

/// A shard directory of 60 utterances of 0.1 to 0.7 s.
fn shards(dir: &TempDir) -> PathBuf {
    let out = dir.path().join("out");
    let mut writer = ShardWriter::create(&out, 100_000).unwrap();
    for i in 0..60i16 {
        let id = format!("u{i}");
        let audio: Vec<i16> = (0..1600 + 160 * i).map(|t| t.wrapping_mul(i + 1)).collect();
        let utterance = Utterance {
            id: &id,
            text: "t",
            response: None,
            emotion: None,
            speaker: None,
            context: None,
            audio: audio.into(),
        };
        writer.push(&utterance).unwrap();
    }
    writer.finish().unwrap();
    out
}

fn corpus(path: &Path) -> (Arc<Corpus>, Arc<Sampler>) {
    let corpus = Arc::new(Corpus::open(&[path.into()], &options()).unwrap());
    let sampler = sampler(&corpus, &[]);
    (corpus, sampler)
}

fn sampler(corpus: &Corpus, rates: &[u32]) -> Arc<Sampler> {
    let options = SamplerOptions { seed: 5, batch_seconds: 3.0, weights: Vec::new(), rates: rates.to_vec() };
    Arc::new(Sampler::new(corpus.costs().clone(), corpus.groups(), &options))
}

fn loader_options(rank: usize, world: usize, threads: usize) -> LoaderOptions {
    let micro_batch = Budget { seconds: 1.0, tokens: 0 };
    LoaderOptions { rank, ranks: vec![0; world], micro_batch, normalize: true, prefetch: 2, threads }
}

fn steps((corpus, sampler): &(Arc<Corpus>, Arc<Sampler>), options: &LoaderOptions, from: u64) -> Vec<Step> {
    let loader = Loader::new(corpus.clone(), None, sampler.clone(), options, from..STEPS).unwrap();
    loader.map(Result::unwrap).collect()
}

/// What matters of a step.
fn facts(step: &Step) -> (u64, Vec<Vec<String>>, Vec<Vec<f32>>) {
    let ids = step.batches.iter().map(|b| b.ids.clone()).collect();
    let waves = step.batches.iter().map(|b| b.waves.flatten_all().unwrap().to_vec1().unwrap()).collect();
    (step.step, ids, waves)
}

#[test]
fn threads_change_nothing() {
    let dir = TempDir::new().unwrap();
    let data = corpus(&shards(&dir));
    let one: Vec<_> = steps(&data, &loader_options(0, 1, 1), 0).iter().map(facts).collect();
    assert_eq!(one.iter().map(|f| f.0).collect::<Vec<_>>(), (0..STEPS).collect::<Vec<_>>());
    for threads in [2, 3, 20] {
        let many: Vec<_> = steps(&data, &loader_options(0, 1, threads), 0).iter().map(facts).collect();
        assert!(one == many, "{threads} threads");
    }
}

#[test]
fn a_resumed_loader_goes_on_as_if_uninterrupted() {
    let dir = TempDir::new().unwrap();
    let data = corpus(&shards(&dir));
    let whole: Vec<_> = steps(&data, &loader_options(0, 1, 2), 0).iter().map(facts).collect();
    let resumed: Vec<_> = steps(&data, &loader_options(0, 1, 2), 7).iter().map(facts).collect();
    assert!(whole[7..] == resumed);
}

#[test]
fn ranks_together_see_every_utterance_of_the_step() {
    let dir = TempDir::new().unwrap();
    let data = corpus(&shards(&dir));
    let ids = |rank, world| -> Vec<Vec<String>> {
        let steps = steps(&data, &loader_options(rank, world, 1), 0);
        steps.iter().map(|s| s.batches.iter().flat_map(|b| b.ids.clone()).collect()).collect()
    };
    let alone = ids(0, 1);
    for world in [2, 3, 9] {
        let ranks: Vec<_> = (0..world).map(|rank| ids(rank, world)).collect();
        for (s, alone) in alone.iter().enumerate() {
            let mut together: Vec<_> = ranks.iter().flat_map(|r| r[s].clone()).collect();
            let mut alone = alone.clone();
            together.sort();
            alone.sort();
            assert_eq!(together, alone, "step {s} of {world} ranks");
        }
    }
}

#[test]
fn an_epoch_is_complete_and_its_figures_are_global() {
    let dir = TempDir::new().unwrap();
    let (corpus, sampler) = corpus(&shards(&dir));
    let per_epoch = sampler.steps_per_epoch();
    let loader = Loader::new(corpus.clone(), None, sampler, &loader_options(1, 2, 2), 0..2 * per_epoch).unwrap();
    let steps: Vec<Step> = loader.map(Result::unwrap).collect();
    for epoch in 0..2 {
        let of_epoch = || steps.iter().filter(|s| s.epoch == epoch);
        assert_eq!(of_epoch().map(|s| s.step_in_epoch).collect::<Vec<_>>(), (0..per_epoch).collect::<Vec<_>>());
        assert_eq!(of_epoch().map(|s| s.utterances).sum::<usize>(), 60);
        let seconds: f64 = of_epoch().map(|s| s.seconds).sum();
        assert!((seconds - corpus.report().seconds).abs() <= 1e-3, "{seconds}");
    }
    assert!(steps.iter().flat_map(|s| &s.batches).all(|b| b.seconds() <= 1.0 + 1e-6));
}

#[test]
fn changed_speeds_keep_budgets_and_do_not_depend_on_threads_or_ranks() {
    let dir = TempDir::new().unwrap();
    let (corpus, plain) = corpus(&shards(&dir));
    let data = (corpus.clone(), sampler(&corpus, &[14_400, 16_000, 17_600]));
    let one = steps(&data, &loader_options(0, 1, 1), 0);
    let facts_of = |steps: &[Step]| steps.iter().map(facts).collect::<Vec<_>>();
    assert!(facts_of(&one) == facts_of(&steps(&data, &loader_options(0, 1, 3), 0)));
    let mut changed = 0;
    for (step, unchanged) in one.iter().zip(steps(&(corpus.clone(), plain), &loader_options(0, 1, 1), 0)) {
        assert!(step.batches.iter().all(|b| b.seconds() <= 1.0 + 1e-6));
        let seconds: f64 = step.batches.iter().map(|b| b.seconds()).sum();
        assert!((seconds - step.seconds).abs() <= 1e-5, "planned {} s, packed {seconds}", step.seconds);
        changed += usize::from((step.seconds - unchanged.seconds).abs() > 1e-3);
    }
    assert!(changed > 0);
    // On a rank an utterance sounds as it does alone.
    let waves = |steps: &[Step]| {
        let one = |b: &echat::data::Batch, i: usize| {
            let all: Vec<f32> = b.waves.flatten_all().unwrap().to_vec1().unwrap();
            (b.ids[i].clone(), all[b.wave_lens.range(i)].to_vec())
        };
        let all = steps.iter().flat_map(|s| &s.batches).flat_map(|b| (0..b.len()).map(move |i| one(b, i)));
        all.collect::<Vec<_>>()
    };
    let mut alone = waves(&one[..3]);
    let mut together: Vec<_> =
        (0..2).flat_map(|rank| waves(&steps(&data, &loader_options(rank, 2, 1), 0)[..3])).collect();
    let order = |a: &(String, Vec<f32>), b: &(String, Vec<f32>)| a.0.cmp(&b.0).then(a.1.len().cmp(&b.1.len()));
    alone.sort_by(order);
    together.sort_by(order);
    assert!(alone == together);
}

#[test]
fn dropping_a_loader_ends_its_threads() {
    let dir = TempDir::new().unwrap();
    let (corpus, sampler) = corpus(&shards(&dir));
    let begun = Instant::now();
    for take in [0, 1, 3] {
        let mut loader =
            Loader::new(corpus.clone(), None, sampler.clone(), &loader_options(0, 1, 3), 0..u64::MAX).unwrap();
        assert_eq!(loader.by_ref().take(take).filter(Result::is_ok).count(), take);
        drop(loader);
        // Threads own clones of both.
        assert_eq!((Arc::strong_count(&corpus), Arc::strong_count(&sampler)), (1, 1));
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_damaged_shard_ends_the_loader_with_an_error() {
    let dir = TempDir::new().unwrap();
    let out = shards(&dir);
    let path = out.join("shard-00000.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (corpus, sampler) = corpus(&out);
    let epoch = sampler.steps_per_epoch();
    let results: Vec<_> = Loader::new(corpus, None, sampler, &loader_options(0, 1, 2), 0..epoch).unwrap().collect();
    let (last, before) = results.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    assert!(matches!(last, Err(LoaderError::Corpus(CorpusError::Shard(_)))), "{last:?}");
}

/// A manifest of 30 wav files, `bad` of which are cut short (so that only decoding finds out).
fn manifest(dir: &TempDir, bad: usize) -> PathBuf {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut lines = String::new();
    for i in 0..30 {
        let path = dir.path().join(format!("{i}.wav"));
        let mut writer = hound::WavWriter::create(&path, spec).unwrap();
        (0..8_000i16).for_each(|t| writer.write_sample(t).unwrap());
        writer.finalize().unwrap();
        if i < bad {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..2000]).unwrap();
        }
        lines += &format!("{{\"audio_filepath\": \"{i}.wav\", \"text\": \"x\"}}\n");
    }
    let path = dir.path().join("m.jsonl");
    fs::write(&path, lines).unwrap();
    path
}

#[test]
fn unreadable_recordings_are_skipped_and_listed_once_found() {
    let dir = TempDir::new().unwrap();
    let (corpus, sampler) = corpus(&manifest(&dir, 1));
    // Over three epochs it is still one utterance.
    let steps = 0..3 * sampler.steps_per_epoch();
    let loader = Loader::new(corpus, None, sampler, &loader_options(0, 1, 2), steps).unwrap();
    let steps: Vec<Step> = loader.map(Result::unwrap).collect();
    let skipped: Vec<_> = steps.iter().flat_map(|s| &s.skipped).collect();
    assert_eq!(skipped.len(), 3);
    assert!(skipped.iter().all(|r| r.id == "0-1" && r.source.ends_with("m.jsonl:1") && r.reason.contains("truncated")));
    assert_eq!(steps.iter().flat_map(|s| &s.batches).map(|b| b.len()).sum::<usize>(), 3 * 29);
}

#[test]
fn too_many_unreadable_recordings_are_an_error() {
    let dir = TempDir::new().unwrap();
    let (corpus, sampler) = corpus(&manifest(&dir, 4));
    let steps = 0..sampler.steps_per_epoch();
    let mut results = Loader::new(corpus, None, sampler, &loader_options(0, 1, 2), steps).unwrap();
    let error = results.find_map(Result::err).expect("no error");
    let LoaderError::Corpus(CorpusError::TooManyBad { bad, total: 30, .. }) = error else { panic!("{error}") };
    assert!((2..=4).contains(&bad));
    assert!(results.next().is_none());
}

#[test]
fn more_ranks_than_utterances_leave_some_without_batches() {
    let dir = TempDir::new().unwrap();
    let (corpus, sampler) = corpus(&shards(&dir));
    let counts: Vec<usize> = (0..100)
        .map(|rank| {
            let mut loader =
                Loader::new(corpus.clone(), None, sampler.clone(), &loader_options(rank, 100, 1), 0..1).unwrap();
            loader.next().unwrap().unwrap().batches.len()
        })
        .collect();
    assert!(counts.contains(&0) && counts.contains(&1));
}
