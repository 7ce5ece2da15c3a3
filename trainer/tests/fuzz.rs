//! Damaged input of every kind we read is an error, never a panic: valid files, mutated at random.
//!
//! An ordinary run tries some thousands a target; a million:
//!
//!     PROPTEST_CASES=1000000 cargo test --release --workspace --features echat/mpi --test fuzz
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use echat::config::{RunConfig, load};
use echat::data::features::{FeatureCache, Identity, PartPlan, PartWriter, part_path};
use echat::data::prepare::{Format, Source, survey};
use echat::data::shard::{Index, LENGTHS_FILE, LengthTable, Shard, ShardWriter};
use echat::data::{Emotion, Utterance, manifest};
use proptest::prelude::*;
use tempfile::TempDir;

/// Inputs a target where `PROPTEST_CASES` does not say.
const CASES: u32 = 4_000;

fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let usual = ProptestConfig::default();
    ProptestConfig { cases: if asked { usual.cases } else { CASES }, failure_persistence: None, ..usual }
}

/// One change of a file.
#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Set {
        at: prop::sample::Index,
        byte: u8,
    },
    Truncate {
        at: prop::sample::Index,
    },
    Insert {
        at: prop::sample::Index,
        bytes: Vec<u8>,
    },
    Remove {
        at: prop::sample::Index,
        count: usize,
    },
    Copy {
        from: prop::sample::Index,
        to: prop::sample::Index,
        count: usize,
    },
    /// The eight bytes at a place become a number: lengths and offsets are such.
    Number {
        at: prop::sample::Index,
        value: u64,
    },
    /// Digits become another number.
    Digits {
        at: prop::sample::Index,
        value: i64,
    },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let number =
        prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63), Just(u64::from(u32::MAX)), 0u64..4096, any::<u64>()];
    let pieces: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b",",
        b":",
        b"\n",
        b"\0",
        b"null",
        b"1e999",
        b"-1",
        b"=",
        b"[[",
        b"'",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
    ];
    let piece = prop::sample::select(pieces.to_vec()).prop_map(<[u8]>::to_vec);
    prop_oneof![
        3 => (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set { at, byte }),
        1 => at().prop_map(|at| Mutation::Truncate { at }),
        2 => (at(), prop_oneof![piece, prop::collection::vec(any::<u8>(), 1..9)]).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        2 => (at(), 1usize..40).prop_map(|(at, count)| Mutation::Remove { at, count }),
        1 => (at(), at(), 1usize..64).prop_map(|(from, to, count)| Mutation::Copy { from, to, count }),
        3 => (at(), number).prop_map(|(at, value)| Mutation::Number { at, value }),
        3 => (at(), prop_oneof![Just(i64::MAX), Just(i64::MIN), -9i64..99, any::<i64>()]).prop_map(|(at, value)| Mutation::Digits { at, value }),
    ]
}

/// A few changes; the first bytes, where headers lie, are as likely a place as all others together.
fn mutations() -> impl Strategy<Value = (bool, Vec<Mutation>)> {
    (any::<bool>(), prop::collection::vec(mutation(), 1..6))
}

fn mutate(good: &[u8], (early, mutations): &(bool, Vec<Mutation>)) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        let room = if *early { bytes.len().min(600) } else { bytes.len() };
        match mutation {
            Mutation::Flip { at, bit } => bytes[at.index(room)] ^= 1 << bit,
            Mutation::Set { at, byte } => bytes[at.index(room)] = *byte,
            Mutation::Truncate { at } => bytes.truncate(at.index(room)),
            Mutation::Insert { at, bytes: more } => {
                let at = at.index(room);
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Remove { at, count } => {
                let at = at.index(room);
                bytes.drain(at..bytes.len().min(at + count));
            }
            Mutation::Copy { from, to, count } => {
                let from = from.index(room);
                let piece = bytes[from..bytes.len().min(from + count)].to_vec();
                let to = to.index(room);
                bytes.splice(to..to, piece);
            }
            Mutation::Number { at, value } => {
                let at = at.index(room);
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Mutation::Digits { at, value } => digits(&mut bytes, at.index(room), *value),
        }
    }
    bytes
}

/// Replaces the next run of digits.
fn digits(bytes: &mut Vec<u8>, at: usize, value: i64) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let len = bytes[start..].iter().position(|b| !b.is_ascii_digit()).unwrap_or(bytes.len() - start);
    bytes.splice(start..start + len, value.to_string().into_bytes());
}

/// A directory in memory if the system has one.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// Tries `read` on mutations of `good` at `path`. At least one mutation must have been refused and one taken, or nothing was tried.
fn fuzz(path: &Path, good: &[u8], read: impl Fn(&Path) -> bool) {
    fs::write(path, good).unwrap();
    assert!(read(path), "{} is good before it is mutated", path.display());
    let counts = [Cell::new(0u64), Cell::new(0u64)];
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&mutations(), |mutations| {
        fs::write(path, mutate(good, &mutations)).unwrap();
        let count = &counts[usize::from(read(path))];
        count.set(count.get() + 1);
        Ok(())
    });
    result.unwrap();
    let [refused, taken] = counts.map(Cell::into_inner);
    println!("{}: {taken} taken, {refused} refused", path.file_name().unwrap().to_string_lossy());
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

fn utterance(i: usize, id: &str) -> Utterance<'_> {
    Utterance {
        id,
        text: "今天天气很好",
        response: i.is_multiple_of(2).then_some("是啊"),
        emotion: Some(Emotion::ALL[i % 5]),
        speaker: Some("s"),
        context: None,
        audio: (0..20 + i).map(|t| (t * 37) as i16).collect::<Vec<_>>().into(),
    }
}

fn shard(dir: &Path) -> PathBuf {
    let mut writer = ShardWriter::create(dir, 1 << 20).unwrap();
    (0..6).for_each(|i| writer.push(&utterance(i, &format!("u{i}"))).unwrap());
    writer.finish().unwrap();
    dir.join("shard-00000.safetensors")
}

#[test]
fn shards() {
    let dir = scratch();
    let good = fs::read(shard(&dir.path().join("made"))).unwrap();
    fuzz(&dir.path().join("shard.safetensors"), &good, |path| {
        let Ok(shard) = Shard::open(path) else { return false };
        let verified = shard.verify().is_ok();
        let all = (0..shard.len()).all(|i| {
            let (lengths, emotion, texts) = (shard.lengths(i), shard.emotion(i), shard.texts(i).is_ok());
            shard.will_need(i);
            let got = shard.get(i).is_ok_and(|u| u.audio.len() == lengths.samples as usize && u.emotion == emotion);
            got && texts
        });
        // What verifies can be read.
        assert!(!verified || all);
        verified
    });
}

#[test]
fn length_tables_and_indexes() {
    let dir = scratch();
    let made = dir.path().join("made");
    shard(&made);
    let index = Index::read(&made).unwrap();
    let table = made.join(LENGTHS_FILE);
    fuzz(&table, &fs::read(&table).unwrap(), |_| match LengthTable::open(&made, &index) {
        Ok(table) => (0..table.len()).all(|i| table.get(i).text == table.get(0).text),
        Err(_) => false,
    });
    let file = made.join("index.json");
    fuzz(&file, &fs::read(&file).unwrap(), |_| Index::read(&made).is_ok());
}

#[test]
fn feature_caches() {
    let dir = scratch();
    let identity = Identity::new("e".into(), "s".into(), "c".into(), DType::F32, true);
    let mut writer = PartWriter::new(DType::F32, 4, 3);
    for i in 0..5u32 {
        let speech = Tensor::full(i as f32, (2 + i as usize, 4), &Device::Cpu).unwrap();
        writer.push(i, &speech, Some(&Tensor::full(0.5f32, (3, 4), &Device::Cpu).unwrap())).unwrap();
    }
    writer.finish(dir.path(), 0).unwrap();
    let path = part_path(dir.path(), 0);
    let plans = [PartPlan { node: 0, utterances: (0..5).collect() }];
    fuzz(&path, &fs::read(&path).unwrap(), |_| {
        let Ok(cache) = FeatureCache::open(dir.path(), &identity, &plans, 0, 5, DType::F32) else { return false };
        (0..5).for_each(|i| cache.will_need(i));
        cache.pack(&[3, 0, 4, 1, 2]).is_ok()
    });
}

#[test]
fn manifests() {
    let dir = scratch();
    let good = "{\"audio_filepath\": \"a.wav\", \"text\": \"你好\", \"id\": \"x\", \"offset\": 1.5, \"duration\": 2, \"response\": \"好\", \"emotion\": \"sad\", \"speaker\": \"s\"}\n\
        {\"key\": \"k\", \"wav\": \"/d/b.flac\", \"txt\": \"一\"}\n{\"text\": \"答\", \"context\": \"问\"}\n";
    fuzz(&dir.path().join("m.jsonl"), good.as_bytes(), |path| manifest::read(path).is_ok());
}

#[test]
fn wenetspeech_metadata() {
    let dir = scratch();
    let good = r#"{"audios":[{"aid":"Y1","duration":24.57,"md5":"48af","path":"audio/train/Y1.opus","source":"youtube","tags":["drama"],"url":"u","segments":[{"sid":"Y1_S0","confidence":1.0,"begin_time":20.08,"end_time":24.4,"subsets":["L","M"],"text":"怎么样这些日子"},{"sid":"Y1_S1","confidence":0.9,"begin_time":24.4,"end_time":26.0,"subsets":["L"],"text":"习惯吧"}]},{"aid":"Y2","path":"p","segments":[]}],"more":{"x":[1,null]}}"#;
    fuzz(&dir.path().join("WenetSpeech.json"), good.as_bytes(), |path| {
        let format = Format::Wenetspeech;
        let source = Source { path: path.into(), format, subsets: vec!["L".into()], rules: format.rules() };
        survey(&[source], 2).is_ok()
    });
}

#[test]
fn kaldi_lists() {
    let dir = scratch();
    fs::write(dir.path().join("wav.scp"), "r0 a.wav\nr1 b.wav\n").unwrap();
    fs::write(dir.path().join("text"), "u0 你 好\nu1 一\nu2 二\n").unwrap();
    fuzz(&dir.path().join("segments"), b"u0 r0 0.00 1.25\nu1 r0 1.25 -1\nu2 r1 0.5 2\n", |_| {
        let source = Source { path: dir.path().into(), format: Format::Kaldi, ..Source::json_lines(dir.path()) };
        survey(&[source], 2).is_ok()
    });
}

#[test]
fn wenet_archives() {
    let dir = scratch();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("u0.txt", "零\n".as_bytes()), ("u0.wav", &[7; 700]), ("d/u1.flac", &[1; 90]), ("d/u1.txt", b"one")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    let good = archive.into_inner().unwrap();
    fuzz(&dir.path().join("shard.tar"), &good, |path| {
        let source = Source { format: Format::Wenet, ..Source::json_lines(path) };
        survey(&[source], 2).is_ok()
    });
}

#[test]
fn configurations() {
    let dir = scratch();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let good = fs::read(root.join("configs/echat/stage1.toml")).unwrap();
    fuzz(&dir.path().join("run.toml"), &good, |path| match load::<RunConfig>(path, &[]) {
        Ok(loaded) => loaded.resolved_toml().is_ok(),
        Err(e) => {
            assert!(!e.to_string().trim().is_empty());
            false
        }
    });
}
