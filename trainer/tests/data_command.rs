//! `echat data`: what it finds, counts, divides and distributes, driven as a command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use echat::data::audio::{Clip, load};
use echat::data::shard::{Index, LENGTHS_FILE, ShardWriter};
use echat::data::{Emotion, Utterance};
use tempfile::TempDir;

/// A directory of `count` utterances in several shards: three of five are sad, one cheerful, one has no emotion.
fn shards(dir: &Path, count: usize) -> PathBuf {
    let out = dir.join("shards");
    let mut writer = ShardWriter::create(&out, 60_000).unwrap();
    for i in 0..count {
        let (id, text) = (format!("u{i:04}"), format!("第{i}句"));
        let audio: Vec<i16> = (0..1_600 * (1 + i % 3)).map(|t| (t * 31 % 997) as i16).collect();
        writer
            .push(&Utterance {
                id: &id,
                text: &text,
                response: (i % 2 == 0).then_some("好"),
                emotion: [Some(Emotion::Sad), Some(Emotion::Sad), Some(Emotion::Sad), Some(Emotion::Cheerful), None]
                    [i % 5],
                speaker: Some(if i % 4 == 0 { "a" } else { "b" }),
                context: None,
                audio: audio.into(),
            })
            .unwrap();
    }
    writer.finish().unwrap();
    out
}

/// Standard output, and standard error.
fn data(args: &[&str]) -> Result<String, String> {
    let out = Command::new(env!("CARGO_BIN_EXE_echat")).arg("data").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stdout) + &text(out.stderr)) }
}

fn of(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn verify_names_every_damaged_shard() {
    let dir = TempDir::new().unwrap();
    let out = shards(dir.path(), 100);
    let count = Index::read(&out).unwrap().shards.len();
    assert!(count >= 4);
    let said = data(&["verify", of(&out)]).unwrap();
    assert!(said.starts_with(&format!("{count} shards, 0.00 GB: as they were written")), "{said}");
    let damage = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(out.join(name)).unwrap();
        change(&mut bytes);
        fs::write(out.join(name), bytes).unwrap();
    };
    damage("shard-00001.safetensors", &|bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
    damage("shard-00003.safetensors", &|bytes| bytes.truncate(bytes.len() - 1));
    let said = data(&["verify", of(&out), of(&dir.path().join("none"))]).unwrap_err();
    for part in [
        "shard-00001.safetensors: damaged: tensor `audio`",
        "shard-00003.safetensors: truncated",
        "none: cannot be read",
        &format!("error: 3 of {} shards are damaged; they are named above", count + 1),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn stats_are_the_paper_s_table() {
    let dir = TempDir::new().unwrap();
    let out = shards(dir.path(), 100);
    let json = dir.path().join("stats.json");
    let said = data(&["stats", of(&out), "--json", of(&json)]).unwrap();
    for line in [
        "shards         sad              60",
        "shards         cheerful         20",
        "shards         none             20",
        "shards         sum             100",
        "shards         2 speakers",
        "0.10 s to 0.30 s, half up to 0.20 s, 95 % up to 0.30 s",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let json: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(json["shards"]["total"]["entries"], 100);
    assert_eq!(json["shards"]["speakers"]["a"]["entries"], 25);
}

#[test]
fn stats_of_text_alone_have_no_lengths() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("text");
    let mut writer = ShardWriter::create(&out, 60_000).unwrap();
    let audio = Vec::new().into();
    let text =
        Utterance { id: "t", text: "答", response: None, emotion: None, speaker: None, context: Some("问"), audio };
    writer.push(&text).unwrap();
    writer.finish().unwrap();
    let said = data(&["stats", of(&out)]).unwrap();
    assert!(
        said.contains("text           sum               1      0.00        0.0") && !said.contains(" s to "),
        "{said}"
    );
}

#[test]
fn show_prints_an_utterance_and_writes_its_recording() {
    let dir = TempDir::new().unwrap();
    let out = shards(dir.path(), 100);
    let wav = dir.path().join("u.wav");
    let said = data(&["show", "u0062", of(&out), "--wav", of(&wav)]).unwrap();
    for line in [
        "id        u0062",
        "seconds   0.300",
        "text      第62句",
        "response  好",
        "emotion   sad",
        "speaker   b",
        "number    ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("context"), "{said}");
    assert_eq!(load(&wav, &Clip::default()).unwrap(), (0..4_800).map(|t| (t * 31 % 997) as i16).collect::<Vec<_>>());
    let said = data(&["show", "nobody", of(&out)]).unwrap_err();
    assert!(said.contains("no utterance `nobody` among the 100 of") && said.lines().count() == 1, "{said}");
}

/// Ids of a shard directory.
fn ids(dir: &Path) -> Vec<String> {
    let shards: Vec<_> = Index::read(dir).unwrap().shards.iter().map(|s| s.open(dir).unwrap()).collect();
    shards.iter().flat_map(|s| (0..s.len()).map(|i| s.get(i).unwrap().id.to_owned())).collect()
}

#[test]
fn split_keeps_every_emotion_s_share_and_depends_on_the_seed_alone() {
    let dir = TempDir::new().unwrap();
    let source = shards(dir.path(), 100);
    let parts = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let said = data(&[&["split", of(&source), "--out", of(&out)], more].concat()).unwrap();
        (["train", "valid", "test"].map(|part| ids(&out.join(part))), said)
    };
    let (first, said) = parts("first", &["--counts", "train=70,valid=10,test=15"]);
    assert_eq!(first.each_ref().map(Vec::len), [70, 10, 15]);
    let all: BTreeSet<&String> = first.iter().flatten().collect();
    assert_eq!(all.len(), 95, "no utterance is in two parts");
    assert!(first.iter().all(|part| part.is_sorted()), "the order is kept");
    for line in [
        "train          sad              42",
        "valid          cheerful          2",
        "test           none              3",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(parts("again", &["--counts", "train=70,valid=10,test=15"]).0, first);
    assert_ne!(parts("seed", &["--counts", "train=70,valid=10,test=15", "--seed", "2"]).0, first);
    let (shares, _) = parts("shares", &["--shares", "train=0.8,valid=0.1,test=0.1"]);
    assert_eq!(shares.each_ref().map(Vec::len), [80, 10, 10]);
    let part = Index::read(&dir.path().join("shares/train")).unwrap().shards[0]
        .open(&dir.path().join("shares/train"))
        .unwrap();
    let (whole, copy) = (data(&["show", &shares[0][0], of(&source)]).unwrap(), part.get(0).unwrap());
    assert!(whole.contains(copy.text) && copy.speaker.is_some());
    part.verify().unwrap();
}

#[test]
fn split_refuses_what_does_not_fit() {
    let dir = TempDir::new().unwrap();
    let source = shards(dir.path(), 20);
    let out = dir.path().join("out");
    let refused = |more: &[&str]| {
        let said = data(&[&["split", of(&source), "--out", of(&out)], more].concat()).unwrap_err();
        assert!(!out.exists(), "{said}");
        said
    };
    for (args, wanted) in [
        (["--counts", "train=30,valid=1"], "the parts have 31 items together, but there are 20"),
        (["--counts", "train=3,valid=0"], "the part `valid` would have no utterance"),
        (["--counts", "train=3,train=4"], "the part `train` comes twice"),
        (["--counts", "train=x"], "`x` is no number"),
        (["--counts", "../train=3"], "a part's name is a directory's"),
        (["--counts", "train"], "expected PART=NUMBER"),
        (["--shares", "train=0.9,valid=0.2"], "shares must lie between 0 and 1"),
        (["--shares", "train=NaN"], "shares must lie between 0 and 1"),
    ] {
        let said = refused(&args);
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    data(&["split", of(&source), "--out", of(&out), "--counts", "train=3"]).unwrap();
    let again = data(&["split", of(&source), "--out", of(&out), "--counts", "train=3"]).unwrap_err();
    assert!(again.contains("out/train: the output directory is not empty"), "{again}");
}

#[test]
fn place_gives_every_shard_to_one_node_and_the_tables_to_all() {
    let dir = TempDir::new().unwrap();
    let source = shards(dir.path(), 200);
    let out = dir.path().join("nodes");
    let said = data(&["place", of(&source), "--nodes", "3", "--out", of(&out)]).unwrap();
    assert!(said.contains(" on 3 nodes, 0.00 h to 0.00 h each") && said.contains("rsync --files-from="), "{said}");
    let index = Index::read(&source).unwrap();
    let (mut listed, mut loads) = (Vec::new(), Vec::new());
    for node in 0..3 {
        let list = fs::read_to_string(out.join(format!("node-{node:05}.txt"))).unwrap();
        let files: Vec<String> = list.lines().map(Into::into).collect();
        assert!(files.contains(&"index.json".into()) && files.contains(&LENGTHS_FILE.into()));
        loads.push(index.shards.iter().filter(|s| files.contains(&s.file)).map(|s| s.samples).sum::<u64>());
        listed.extend(files.into_iter().filter(|f| f.starts_with("shard-")));
    }
    listed.sort();
    assert!(listed.iter().eq(index.shards.iter().map(|s| &s.file)), "{listed:?}");
    let largest = index.shards.iter().map(|s| s.samples).max().unwrap();
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= largest, "{loads:?}");
    let few = data(&["place", of(&source), "--nodes", "1000", "--out", of(&dir.path().join("x"))]).unwrap_err();
    assert!(few.contains("are too few for 1000 nodes"), "{few}");
    let taken = data(&["place", of(&source), "--nodes", "2", "--out", of(&out)]).unwrap_err();
    assert!(taken.contains("nodes: not empty"), "{taken}");
}
