//! Nodes that have different shards plan the same steps and read what is theirs; what is missing is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use echat::data::corpus::Sight;
use echat::data::shard::{Index, LENGTHS_FILE, LengthTable, ShardError, ShardWriter};
use echat::data::{
    Budget, Corpus, CorpusError, CorpusOptions, Loader, LoaderOptions, Placement, PlacementKind, Sampler,
    SamplerOptions, Target, Utterance,
};
use echat::dist::{Solo, World};
use tempfile::TempDir;

fn options() -> CorpusOptions {
    CorpusOptions { target: Target::Text, min_seconds: 0.1, max_seconds: 30.0, max_bad_share: 0.5, verify: false }
}

/// 60 utterances of 0.1 to 0.7 s, two without text, one without speech, in some ten shards.
fn prepare(out: &Path) {
    let mut writer = ShardWriter::create(out, 100_000).unwrap();
    for i in 0..60usize {
        let (id, text) = (format!("u{i}"), if i % 32 == 8 { String::new() } else { "好".repeat(i % 4) + "x" });
        let speech = if i == 9 { 0 } else { 1600 + 160 * i };
        let utterance = Utterance {
            id: &id,
            text: &text,
            response: None,
            emotion: None,
            speaker: None,
            context: (i == 9).then_some("问"),
            audio: vec![i as i16; speech].into(),
        };
        writer.push(&utterance).unwrap();
    }
    writer.finish().unwrap();
}

/// `dir/NODE/corpus` for each of `nodes`, which keep shard `i` if `keeps(node, i)`.
fn nodes(dir: &TempDir, nodes: usize, keeps: impl Fn(usize, usize) -> bool) -> Vec<PathBuf> {
    let whole = dir.path().join("whole");
    prepare(&whole);
    let copy = |node: usize| {
        let out = dir.path().join(node.to_string()).join("corpus");
        fs::create_dir_all(&out).unwrap();
        for entry in fs::read_dir(&whole).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let shard = name.strip_prefix("shard-").map(|rest| rest[..5].parse::<usize>().unwrap());
            if shard.is_none_or(|i| keeps(node, i)) {
                fs::copy(whole.join(&name), out.join(&name)).unwrap();
            }
        }
        out
    };
    (0..nodes).map(copy).collect()
}

/// What ranks on these nodes find, `ranks[r]` being the node of rank `r`.
fn placements(dirs: &[PathBuf], ranks: &[usize]) -> Vec<Result<Placement, CorpusError>> {
    let sights: Vec<_> = ranks
        .iter()
        .map(|&node| Sight::of(std::slice::from_ref(&dirs[node]), format!("host{}", 9 - node)).unwrap())
        .collect();
    let seen: Vec<Sight> = sights.iter().map(|(sight, _)| sight.clone()).collect();
    let find = |rank: usize| {
        let path = std::slice::from_ref(&dirs[ranks[rank]]);
        Placement::of(path, &sights[rank].1, &seen, rank)
    };
    (0..ranks.len()).map(find).collect()
}

fn open(dir: &Path, placement: &Placement) -> Result<Corpus, CorpusError> {
    Corpus::open_placed(&[dir.into()], &options(), placement.clone())
}

fn sampler(corpus: &Corpus) -> Sampler {
    let options = SamplerOptions { seed: 5, batch_seconds: 4.0, weights: Vec::new(), rates: Vec::new() };
    Sampler::new(corpus.costs().clone(), corpus.groups(), &options)
}

#[test]
fn nodes_with_different_shards_plan_alike_and_read_their_own() {
    let dir = TempDir::new().unwrap();
    let dirs = nodes(&dir, 2, |node, i| i % 2 == node);
    let ranks = [0, 1, 1];
    let corpora: Vec<Arc<Corpus>> = placements(&dirs, &ranks)
        .into_iter()
        .zip(ranks)
        .map(|(placement, node)| Arc::new(open(&dirs[node], &placement.unwrap()).unwrap()))
        .collect();
    let samplers: Vec<Arc<Sampler>> = corpora.iter().map(|corpus| Arc::new(sampler(corpus))).collect();
    let steps = samplers[0].steps_per_epoch();
    let mut ids = Vec::new();
    for rank in 0..3 {
        assert_eq!(corpora[rank].costs(), corpora[0].costs());
        assert!((0..2 * steps).all(|step| samplers[rank].at(step) == samplers[0].at(step)));
        let options = LoaderOptions {
            rank,
            ranks: corpora[rank].placement().ranks.clone(),
            micro_batch: Budget { seconds: 1.0, tokens: 0 },
            normalize: false,
            prefetch: 2,
            threads: 2,
        };
        let loader = Loader::new(corpora[rank].clone(), None, samplers[rank].clone(), &options, 0..steps).unwrap();
        ids.extend(loader.flat_map(|step| step.unwrap().batches).flat_map(|batch| batch.ids));
    }
    assert_eq!(ids.len(), 58);
    assert_eq!(ids.into_iter().collect::<HashSet<_>>().len(), 58);
    let (report, whole) = (corpora[1].report(), Corpus::open(&[dir.path().join("whole")], &options()).unwrap());
    assert_eq!(report.summary(), whole.report().summary());
    assert_eq!(report.text_only, 1);
    // Another number of ranks, other host names: the same steps.
    let two = placements(&dirs, &[1, 0]);
    let other = sampler(&open(&dirs[1], two[0].as_ref().unwrap()).unwrap());
    assert!((0..steps).all(|step| other.at(step) == samplers[0].at(step)));
}

#[test]
fn an_utterance_of_another_node_is_an_error_by_name() {
    let dir = TempDir::new().unwrap();
    let dirs = nodes(&dir, 2, |node, i| (i == 0) == (node == 0));
    let placement = placements(&dirs, &[0, 1]).swap_remove(1).unwrap();
    let error = open(&dirs[1], &placement).unwrap().get(0).err().unwrap();
    assert!(matches!(error, CorpusError::Elsewhere { .. }), "{error}");
    assert!(error.to_string().ends_with("shard-00000.safetensors: utterance 0: on another node than this rank's"));
}

#[test]
fn a_shard_on_several_nodes_is_read_once() {
    let dir = TempDir::new().unwrap();
    let dirs = nodes(&dir, 2, |node, i| node == 0 || i < 5);
    let placements = placements(&dirs, &[0, 1]);
    let whole = Corpus::open(&[dir.path().join("whole")], &options()).unwrap();
    let corpora: Vec<_> = (0..2).map(|n| open(&dirs[n], placements[n].as_ref().unwrap()).unwrap()).collect();
    let here = |i: usize| corpora.iter().filter(|corpus| corpus.get(i).is_ok()).count();
    assert!((0..whole.len()).all(|i| here(i) == 1));
    let seconds = |n: usize| {
        let costs = (0..whole.len()).filter(|&i| corpora[n].get(i).is_ok()).map(|i| whole.costs()[i].seconds);
        costs.sum::<f32>()
    };
    assert!((seconds(0) - seconds(1)).abs() < 7.0, "{} {}", seconds(0), seconds(1));
}

#[test]
fn a_shard_on_no_node_is_named() {
    let dir = TempDir::new().unwrap();
    let dirs = nodes(&dir, 2, |node, i| i != 3 && i % 2 == node);
    for placement in placements(&dirs, &[0, 1]) {
        let error = placement.err().unwrap();
        assert!(matches!(error, CorpusError::Nowhere { nodes: 2, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("corpus/shard-00003.safetensors: on none of the 2 nodes (host"), "{text}");
    }
}

#[test]
fn a_rank_that_does_not_see_what_its_neighbour_sees_counts() {
    let dir = TempDir::new().unwrap();
    let dirs = nodes(&dir, 1, |_, _| true);
    let (all, index) = Sight::of(&dirs, "a".into()).unwrap();
    let mut less = all.clone();
    less.shards[0][2] = false;
    let error = Placement::of(&dirs, &index, &[all, less], 0).err().unwrap();
    assert!(matches!(error, CorpusError::Nowhere { nodes: 1, .. }), "{error}");
}

#[test]
fn another_index_on_another_node_is_an_error() {
    let dir = TempDir::new().unwrap();
    let dirs = nodes(&dir, 2, |node, i| i % 2 == node);
    let index = dirs[1].join("index.json");
    fs::write(&index, fs::read_to_string(&index).unwrap() + " ").unwrap();
    let error = placements(&dirs, &[0, 1]).swap_remove(1).err().unwrap();
    assert!(matches!(error, CorpusError::OtherIndex { .. }), "{error}");
    assert!(error.to_string().contains("not the same on host9 and host8"), "{error}");
}

/// One rank, one node.
fn alone(path: &Path) -> Result<Corpus, CorpusError> {
    let paths = [path.to_path_buf()];
    let mut solo = Solo::new(World::single("here"));
    let placement = Placement::find(PlacementKind::NodeLocal, &paths, &mut solo)?;
    Corpus::open_placed(&paths, &options(), placement)
}

#[test]
fn single_files_cannot_be_placed() {
    let dir = TempDir::new().unwrap();
    prepare(&dir.path().join("whole"));
    let shard = dir.path().join("whole/shard-00000.safetensors");
    assert!(matches!(alone(&shard).err().unwrap(), CorpusError::NotPlaceable { path } if path == shard));
}

#[test]
fn without_a_table_of_lengths_nodes_cannot_plan() {
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    prepare(&whole);
    assert_eq!(alone(&whole).unwrap().len(), 58);
    fs::remove_file(whole.join(LENGTHS_FILE)).unwrap();
    let error = alone(&whole).err().unwrap();
    assert!(matches!(error, CorpusError::Shard(ShardError::NoLengths { .. })), "{error}");
}

#[test]
fn a_damaged_table_of_lengths_is_found() {
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    prepare(&whole);
    let (path, index) = (whole.join(LENGTHS_FILE), Index::read(&whole).unwrap());
    let table = LengthTable::open(&whole, &index).unwrap();
    assert_eq!((table.len(), table.get(9).samples, table.get(9).context), (60, 0, 3));
    assert_eq!((table.get(10).samples, table.get(10).text), (3200, 7));
    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, flipped).unwrap();
    let error = LengthTable::open(&whole, &index).err().unwrap();
    assert!(matches!(error, ShardError::TensorChecksum { .. }), "{error}");
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    assert!(matches!(LengthTable::open(&whole, &index).err().unwrap(), ShardError::Truncated { .. }));
    let more = Index { utterances: 61, ..index };
    fs::write(&path, bytes).unwrap();
    assert!(matches!(LengthTable::open(&whole, &more).err().unwrap(), ShardError::NotAShard { .. }));
}

#[test]
fn a_shard_that_is_not_as_the_table_says_is_named() {
    let dir = TempDir::new().unwrap();
    let (whole, other) = (dir.path().join("whole"), dir.path().join("other"));
    prepare(&whole);
    // As many utterances of other lengths.
    let count = Index::read(&whole).unwrap().shards[0].utterances as usize;
    let mut writer = ShardWriter::create(&other, usize::MAX).unwrap();
    for i in 0..count {
        let (id, audio) = (format!("v{i}"), vec![1; 5000].into());
        let utterance =
            Utterance { id: &id, text: "x", response: None, emotion: None, speaker: None, context: None, audio };
        writer.push(&utterance).unwrap();
    }
    writer.finish().unwrap();
    fs::copy(other.join("shard-00000.safetensors"), whole.join("shard-00000.safetensors")).unwrap();
    let error = alone(&whole).err().unwrap();
    assert!(matches!(error, CorpusError::Shard(ShardError::OtherLengths { index: 0, .. })), "{error}");
}
