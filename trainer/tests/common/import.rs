//! Importing a corpus made of real recordings in a temporary directory.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use echat::data::audio::{self, Clip};
use echat::data::prepare::{Format, PrepareError, PrepareOptions, Prepared, Source, prepare};
use echat::data::shard::Index;
use echat::dist::{Solo, World};
use tempfile::TempDir;

/// Where the Debian package gcin-voice puts its recordings: one directory a syllable.
pub const VOICE: &str = "/usr/share/gcin-voice/ogg";

/// `count` utterances of about two seconds: six recorded syllables each, 16 kHz.
pub fn speech(count: usize) -> Vec<Vec<i16>> {
    let mut syllables: Vec<PathBuf> = fs::read_dir(VOICE)
        .expect("install the Debian package gcin-voice")
        .map(|e| e.unwrap().path().join("3.ogg"))
        .filter(|p| p.is_file())
        .collect();
    syllables.sort();
    let of = |part: &[PathBuf]| part.iter().flat_map(|p| audio::load(p, &Clip::default()).unwrap()).collect();
    syllables.chunks_exact(6).take(count).map(of).collect()
}

pub fn write_wav(path: &Path, samples: &[i16]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&x| writer.write_sample(x).unwrap());
    writer.finalize().unwrap();
}

pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub fn ffmpeg(from: &Path, to: &Path, options: &[&str]) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let done = Command::new("ffmpeg").args(["-y", "-v", "error", "-i"]).arg(from).args(options).arg(to).status();
    assert!(done.expect("install the Debian package ffmpeg").success());
}

pub fn source(path: &Path, subsets: &[&str]) -> Source {
    let format = Format::detect(path).unwrap();
    let subsets = subsets.iter().map(ToString::to_string).collect();
    Source { path: path.into(), format, subsets, rules: format.rules() }
}

pub fn run(sources: &[Source], out: &Path, max_bad_share: f64) -> Result<Prepared, PrepareError> {
    let options = PrepareOptions { max_bad_share, ..PrepareOptions::default() };
    let mut solo = Solo::new(World::single("here"));
    Ok(prepare(sources, out, &options, &mut solo, &mut |_| {})?.unwrap())
}

/// What a shard directory holds of each utterance.
#[derive(Debug, PartialEq)]
pub struct Held {
    pub id: String,
    pub text: String,
    pub speaker: Option<String>,
    pub audio: Vec<i16>,
}

pub fn held(out: &Path) -> Vec<Held> {
    let shards = Index::read(out).unwrap().shards;
    let shards: Vec<_> = shards.iter().map(|s| s.open(out).unwrap()).collect();
    let all = shards.iter().flat_map(|s| (0..s.len()).map(|i| s.get(i).unwrap()));
    all.map(|u| Held {
        id: u.id.into(),
        text: u.text.into(),
        speaker: u.speaker.map(Into::into),
        audio: u.audio.into_owned(),
    })
    .collect()
}

/// Prepares `path`; the utterances and the lines of rejects.jsonl.
pub fn import(dir: &TempDir, path: &Path, subsets: &[&str]) -> (Vec<Held>, Vec<String>) {
    let out = dir.path().join(format!("out{}", fs::read_dir(dir.path()).unwrap().count()));
    run(&[source(path, subsets)], &out, 1.0).unwrap();
    let rejects = fs::read_to_string(out.join("rejects.jsonl")).unwrap();
    (held(&out), rejects.lines().map(Into::into).collect())
}

pub fn ids(held: &[Held]) -> Vec<&str> {
    held.iter().map(|h| h.id.as_str()).collect()
}

pub fn error(path: &Path, subsets: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let error = run(&[source(path, subsets)], &dir.path().join("out"), 1.0).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// How alike two recordings are, and at which shift (within 3 ms) they are most so.
pub fn alignment(a: &[i16], b: &[i16]) -> (f64, i64) {
    let at = |shift: i64| {
        let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
        for t in 100..a.len() as i64 - 100 {
            let (x, y) = (f64::from(a[t as usize]), f64::from(b[(t + shift) as usize]));
            (ab, aa, bb) = (ab + x * y, aa + x * x, bb + y * y);
        }
        ab / (aa * bb).sqrt()
    };
    (-48..=48).map(|shift| (at(shift), shift)).max_by(|x, y| x.0.total_cmp(&y.0)).unwrap()
}
