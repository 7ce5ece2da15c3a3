//! Shards give back what was written, byte for byte the same every time; every damage is found and named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use echat::data::shard::{INDEX_FILE, Index, Shard, ShardError, ShardWriter};
use echat::data::{Emotion, Utterance};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

fn utterances() -> Vec<Utterance<'static>> {
    let blank = Utterance {
        id: "b",
        text: "早上好",
        response: None,
        emotion: None,
        speaker: None,
        context: None,
        audio: vec![i16::MIN, -1, 0, 1, i16::MAX].into(),
    };
    let full = Utterance {
        id: "a",
        text: "你好",
        response: Some("很高兴 😀"),
        emotion: Some(Emotion::Sad),
        speaker: Some("s1"),
        audio: (0..100).collect::<Vec<i16>>().into(),
        ..blank.clone()
    };
    let text_only = Utterance { id: "c", context: Some("question"), audio: Vec::new().into(), ..blank.clone() };
    vec![full, blank, text_only]
}

fn write(dir: &Path, utterances: &[Utterance], max_bytes: usize) -> Index {
    let mut writer = ShardWriter::create(dir, max_bytes).unwrap();
    utterances.iter().for_each(|u| writer.push(u).unwrap());
    writer.finish().unwrap()
}

fn one_shard(dir: &TempDir) -> PathBuf {
    write(&dir.path().join("out"), &utterances(), usize::MAX);
    dir.path().join("out/shard-00000.safetensors")
}

fn read_all(shard: &Shard) -> Result<Vec<Utterance<'_>>, ShardError> {
    (0..shard.len()).map(|i| shard.get(i)).collect()
}

#[test]
fn what_was_written_is_read() {
    let dir = TempDir::new().unwrap();
    let shard = Shard::open(&one_shard(&dir)).unwrap();
    assert_eq!(read_all(&shard).unwrap(), utterances());
    shard.verify().unwrap();
    assert_eq!((shard.lengths(0).samples, shard.lengths(1).samples, shard.lengths(2).samples), (100, 5, 0));
    assert_eq!((shard.emotion(0), shard.emotion(1)), (Some(Emotion::Sad), None));
    // Borrowed from the map, not copied.
    assert!(matches!(shard.get(0).unwrap().audio, std::borrow::Cow::Borrowed(_)));
}

#[test]
fn columns_nobody_uses_are_left_out() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("out"), &utterances()[1..2], usize::MAX);
    let path = dir.path().join("out/shard-00000.safetensors");
    let bytes = fs::read(&path).unwrap();
    let mut names: Vec<_> = SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(String::from).collect();
    names.sort();
    assert_eq!(names, ["audio", "audio_offsets", "crc32", "id", "id_offsets", "text", "text_offsets"]);
    assert_eq!(read_all(&Shard::open(&path).unwrap()).unwrap(), utterances()[1..2]);
}

#[test]
fn the_same_utterances_give_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    for name in ["x", "y"] {
        write(&dir.path().join(name), &utterances(), 400);
    }
    let files = |name: &str| {
        let entries = fs::read_dir(dir.path().join(name)).unwrap().map(|e| e.unwrap().path());
        let mut files: Vec<_> = entries.map(|p| (p.file_name().unwrap().to_owned(), fs::read(&p).unwrap())).collect();
        files.sort();
        files
    };
    assert_eq!(files("x"), files("y"));
}

#[test]
fn shards_rotate_before_they_exceed_the_size() {
    let dir = TempDir::new().unwrap();
    let many: Vec<_> = (0..50).map(|_| utterances()[0].clone()).collect();
    let index = write(&dir.path().join("out"), &many, 2000);
    assert!(index.shards.len() > 1);
    assert_eq!((index.utterances, index.samples), (50, 5000));
    assert_eq!(Index::read(&dir.path().join("out")).unwrap(), index);
    let mut read = 0;
    for (i, info) in index.shards.iter().enumerate() {
        assert_eq!(info.file, format!("shard-{i:05}.safetensors"));
        let shard = info.open(&dir.path().join("out")).unwrap();
        read += read_all(&shard).unwrap().iter().filter(|&u| *u == many[0]).count();
        let bytes = fs::metadata(shard.path()).unwrap().len();
        assert!(bytes <= 2000 + 2048, "{bytes} bytes; the header is under 2048");
    }
    assert_eq!(read, 50);
}

#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("mine.txt"), "precious").unwrap();
    let error = ShardWriter::create(dir.path(), 1000).err().unwrap();
    assert!(matches!(error, ShardError::NotEmpty { .. }));
}

#[test]
fn a_directory_without_index_was_not_finished() {
    let dir = TempDir::new().unwrap();
    one_shard(&dir);
    fs::remove_file(dir.path().join("out").join(INDEX_FILE)).unwrap();
    assert!(matches!(Index::read(&dir.path().join("out")), Err(ShardError::NoIndex { .. })));
}

#[test]
fn an_index_that_disagrees_is_bad() {
    let dir = TempDir::new().unwrap();
    one_shard(&dir);
    let out = dir.path().join("out");
    let text = fs::read_to_string(out.join(INDEX_FILE)).unwrap();
    fs::write(out.join(INDEX_FILE), &text[..text.len() / 2]).unwrap();
    assert!(matches!(Index::read(&out), Err(ShardError::BadIndex { .. })));
    fs::write(out.join(INDEX_FILE), text.replacen("\"utterances\": 3", "\"utterances\": 4", 1)).unwrap();
    assert!(matches!(Index::read(&out), Err(ShardError::BadIndex { .. })));
    fs::write(out.join(INDEX_FILE), text.replace("\"utterances\": 3", "\"utterances\": 4")).unwrap();
    let index = Index::read(&out).unwrap();
    assert!(matches!(index.shards[0].open(&out), Err(ShardError::BadIndex { .. })));
    fs::write(out.join(INDEX_FILE), text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(matches!(Index::read(&out), Err(ShardError::Version { found: 2, .. })));
}

fn bad(path: &Path) -> ShardError {
    let error = Shard::open(path).err().expect("a bad shard opened");
    let message = error.to_string();
    assert!(message.starts_with(&path.display().to_string()) && !message.contains('\n'), "{message}");
    error
}

#[test]
fn a_missing_shard_is_unreadable() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(bad(&dir.path().join("none.safetensors")), ShardError::Unreadable { .. }));
}

#[test]
fn a_shard_cut_anywhere_is_truncated() {
    let dir = TempDir::new().unwrap();
    let path = one_shard(&dir);
    let bytes = fs::read(&path).unwrap();
    let cut = dir.path().join("cut.safetensors");
    for len in 0..bytes.len() {
        fs::write(&cut, &bytes[..len]).unwrap();
        let error = bad(&cut);
        let expected = matches!(error, ShardError::Truncated { .. })
            || (len == 0 && matches!(error, ShardError::Unreadable { .. }));
        assert!(expected, "cut to {len} bytes: {error}");
    }
}

#[test]
fn a_shard_with_bytes_appended_is_damaged() {
    let dir = TempDir::new().unwrap();
    let path = one_shard(&dir);
    let mut bytes = fs::read(&path).unwrap();
    bytes.push(0);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(bad(&path), ShardError::Truncated { .. }));
}

#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let dir = TempDir::new().unwrap();
    let path = one_shard(&dir);
    let bytes = fs::read(&path).unwrap();
    let flipped = dir.path().join("flipped.safetensors");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut found = 0;
    for at in 0..bytes.len() {
        let mut copy = bytes.clone();
        copy[at] ^= 1 << (at % 8);
        fs::write(&flipped, &copy).unwrap();
        let read = Shard::open(&flipped).and_then(|shard| {
            let read: Vec<_> = (0..shard.len()).map(|i| shard.get(i).map(|u| u == utterances()[i])).collect();
            let verified = shard.verify();
            // What reading finds, verifying finds; data are never silently different.
            if let Some(wrong) = read.into_iter().find(|r| !matches!(r, Ok(true))) {
                assert_ne!(wrong.as_ref().ok(), Some(&false), "byte {at}: a wrong utterance was returned");
                assert!(at < header || verified.is_err(), "byte {at}: verify missed it");
            }
            verified
        });
        found += usize::from(read.is_err());
        assert!(at < header || read.is_err(), "byte {at} of the data: not found");
    }
    assert!(found >= bytes.len() - header);
}

/// The tensors and metadata of a good shard, to be changed.
struct Parts {
    tensors: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl Parts {
    fn of(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors =
            file.iter().map(|(n, t)| (n.to_string(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect();
        Self { tensors, metadata: header.metadata().clone().unwrap() }
    }

    /// Writes them, with checksums that fit.
    fn write(mut self, path: &Path) {
        let mut header: serde_json::Value = serde_json::from_str(&self.metadata["echat_shard"]).unwrap();
        header["crc32"] = self
            .tensors
            .iter()
            .map(|(n, t)| (n.clone(), crc32fast::hash(&t.2).into()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        self.metadata.insert("echat_shard".into(), header.to_string());
        let views = self.tensors.iter().map(|(n, (d, s, b))| (n.clone(), TensorView::new(*d, s.clone(), b).unwrap()));
        safetensors::serialize_to_file(views, Some(self.metadata), path).unwrap();
    }

    fn set_header(&mut self, key: &str, value: serde_json::Value) {
        let mut header: serde_json::Value = serde_json::from_str(&self.metadata["echat_shard"]).unwrap();
        header[key] = value;
        self.metadata.insert("echat_shard".into(), header.to_string());
    }
}

/// A shard with `change` made to it.
fn changed(change: impl FnOnce(&mut Parts)) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = one_shard(&dir);
    let mut parts = Parts::of(&path);
    change(&mut parts);
    parts.write(&path);
    (dir, path)
}

#[test]
fn another_safetensors_file_is_not_a_shard() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    let view = TensorView::new(Dtype::U8, vec![4], &[0; 4]).unwrap();
    safetensors::serialize_to_file([("weight", view)], None, &path).unwrap();
    assert!(matches!(bad(&path), ShardError::NotAShard { .. }));
}

#[test]
fn another_version_is_named() {
    let (_dir, path) = changed(|parts| parts.set_header("version", 7.into()));
    assert!(matches!(bad(&path), ShardError::Version { found: 7, .. }));
}

#[test]
fn another_sample_rate_is_not_a_shard() {
    let (_dir, path) = changed(|parts| parts.set_header("sample_rate", 8000.into()));
    assert!(matches!(bad(&path), ShardError::NotAShard { .. }));
}

#[test]
fn a_missing_tensor_is_not_a_shard() {
    for name in ["audio", "audio_offsets", "id", "text_offsets", "crc32", "response_offsets"] {
        let (_dir, path) = changed(|parts| drop(parts.tensors.remove(name)));
        let error = bad(&path);
        assert!(matches!(&error, ShardError::NotAShard { reason, .. } if reason.contains(name)), "{error}");
    }
}

#[test]
fn a_tensor_of_another_dtype_or_shape_is_not_a_shard() {
    let (_dir, path) = changed(|parts| parts.tensors.get_mut("audio").unwrap().0 = Dtype::U16);
    assert!(matches!(bad(&path), ShardError::NotAShard { .. }));
    let (_dir, path) = changed(|parts| {
        let emotion = parts.tensors.get_mut("emotion").unwrap();
        emotion.1 = vec![4];
        emotion.2.push(0);
    });
    assert!(matches!(bad(&path), ShardError::NotAShard { .. }));
    let (_dir, path) = changed(|parts| parts.tensors.get_mut("crc32").unwrap().1 = vec![1, 3]);
    assert!(matches!(bad(&path), ShardError::NotAShard { .. }));
}

#[test]
fn offsets_that_decrease_or_leave_the_file_are_not_a_shard() {
    let set = |name: &'static str, i: usize, value: u64| {
        changed(move |parts| {
            parts.tensors.get_mut(name).unwrap().2[8 * i..8 * i + 8].copy_from_slice(&value.to_le_bytes())
        })
    };
    for (name, i, value) in
        [("audio_offsets", 1, 200), ("audio_offsets", 3, 1 << 60), ("text_offsets", 3, 1 << 40), ("id_offsets", 0, 1)]
    {
        let (_dir, path) = set(name, i, value);
        assert!(matches!(bad(&path), ShardError::NotAShard { .. }), "{name}[{i}]");
    }
    // An offset in the middle of a text table is found when it is used.
    let (_dir, path) = set("text_offsets", 1, u64::MAX);
    let shard = Shard::open(&path).unwrap();
    for i in 0..2 {
        assert!(matches!(shard.get(i), Err(ShardError::Utterance { index, .. }) if index == i));
    }
    assert!(shard.get(2).is_ok());
}

#[test]
fn a_shard_that_cannot_be_written_is_an_error() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let mut writer = ShardWriter::create(&out, 100).unwrap();
    fs::remove_dir(&out).unwrap();
    let error = utterances().iter().find_map(|u| writer.push(u).err()).expect("nothing failed");
    assert!(matches!(error, ShardError::Write { .. }), "{error}");
}

#[test]
fn python_reads_the_same() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/read_shard.py");
    let Some(mut python) = common::python("safetensors.numpy", "reading a shard") else { return };
    let dir = TempDir::new().unwrap();
    let path = one_shard(&dir);
    let out = python.arg(script).arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    let read: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(read.len(), 3);
    for (json, u) in read.iter().zip(utterances()) {
        assert_eq!(json["id"], u.id);
        assert_eq!(json["text"], u.text);
        assert_eq!(json["response"], u.response.unwrap_or_default());
        assert_eq!(json["speaker"], u.speaker.unwrap_or_default());
        assert_eq!(json["context"], u.context.unwrap_or_default());
        assert_eq!(json["emotion"], u.emotion.map_or(255, |e| e as u8));
        assert_eq!(json["audio"], serde_json::json!(u.audio));
    }
}

#[test]
fn the_documentation_shows_the_tested_script() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = fs::read_to_string(root.join("tests/python/read_shard.py")).unwrap();
    assert!(fs::read_to_string(root.join("docs/shards.md")).unwrap().contains(&script));
}
