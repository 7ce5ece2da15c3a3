//! How fast recordings become shards, from real speech (the syllables of the Debian package gcin-voice, joined) as 16 kHz wav, as flac and as Opus
//! (both by ffmpeg). Needs ffmpeg. Prints a table and fails below the goals.
//!
//!     cargo bench --workspace --features echat/mpi --bench prepare -- [MINUTES]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use echat::data::audio::{Clip, load};
use echat::data::prepare::{PrepareOptions, Source, prepare};
use echat::data::wav;
use echat::dist::{Solo, World};

const VOICE: &str = "/usr/share/gcin-voice/ogg";
/// Utterances of an hour of WenetSpeech last about so long.
const UTTERANCE_SECONDS: usize = 4;
/// Times real time on one core.
const GOALS: [(&str, f64); 2] = [("wav", 150.0), ("opus", 100.0)];

fn main() {
    let minutes: usize = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(60);
    let dir = tempfile::TempDir::new().unwrap();
    let count = minutes * 60 / UTTERANCE_SECONDS;
    write_wavs(dir.path(), count);
    encode(dir.path(), count, "flac", &[]);
    encode(dir.path(), count, "opus", &["-c:a", "libopus", "-b:a", "32k"]);
    long_opus(dir.path(), count);
    println!("{minutes} min of speech in {count} utterances; one thread; shards with checksums, synced to disk");
    println!("{:<34} {:>9} {:>16}", "source", "seconds", "× real time");
    let mut failed = false;
    for (name, manifest) in
        [("wav", "wav.jsonl"), ("flac", "flac.jsonl"), ("opus", "opus.jsonl"), ("one long opus, cut", "long.jsonl")]
    {
        let source = Source::json_lines(&dir.path().join(manifest));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let best = (0..3)
            .map(|round| {
                let out = dir.path().join(format!("out-{name}-{round}"));
                let begun = Instant::now();
                let mut solo = Solo::new(World::single("here"));
                let made = pool
                    .install(|| {
                        prepare(std::slice::from_ref(&source), &out, &PrepareOptions::default(), &mut solo, &mut |_| {})
                    })
                    .unwrap()
                    .unwrap();
                let seconds = begun.elapsed().as_secs_f64();
                fs::remove_dir_all(&out).unwrap();
                (seconds, made.index.samples as f64 / 16_000.0)
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap();
        let speed = best.1 / best.0;
        println!("{name:<34} {:>9.2} {speed:>16.0}", best.0);
        failed |= GOALS.iter().any(|(goal, least)| *goal == name && speed < *least);
    }
    assert!(!failed, "slower than the goals: {GOALS:?}");
}

/// Recorded syllables, joined to utterances.
fn write_wavs(dir: &Path, count: usize) {
    let mut syllables: Vec<PathBuf> = fs::read_dir(VOICE)
        .expect("install the Debian package gcin-voice")
        .map(|e| e.unwrap().path().join("3.ogg"))
        .filter(|p| p.is_file())
        .collect();
    syllables.sort();
    let speech: Vec<i16> = syllables.iter().flat_map(|p| load(p, &Clip::default()).unwrap()).collect();
    fs::create_dir_all(dir.join("wav")).unwrap();
    let samples = UTTERANCE_SECONDS * 16_000;
    for i in 0..count {
        let start = i * 7_919 % (speech.len() - samples);
        wav::write(&dir.join(format!("wav/{i}.wav")), &speech[start..start + samples]).unwrap();
    }
    manifest(dir, count, "wav");
}

fn manifest(dir: &Path, count: usize, extension: &str) {
    let line = |i: usize| {
        format!(
            "{{\"audio_filepath\": \"{extension}/{i}.{extension}\", \"duration\": {UTTERANCE_SECONDS}, \"text\": \"第{i}句\"}}\n"
        )
    };
    fs::write(dir.join(format!("{extension}.jsonl")), (0..count).map(line).collect::<String>()).unwrap();
}

/// The same utterances in another format, a file each.
fn encode(dir: &Path, count: usize, extension: &str, options: &[&str]) {
    fs::create_dir_all(dir.join(extension)).unwrap();
    for i in 0..count {
        let (from, to) = (dir.join(format!("wav/{i}.wav")), dir.join(format!("{extension}/{i}.{extension}")));
        let done = Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(from).args(options).arg(to).status();
        assert!(done.expect("install ffmpeg").success());
    }
    manifest(dir, count, extension);
}

/// All utterances in one Opus file, as WenetSpeech has them.
fn long_opus(dir: &Path, count: usize) {
    let list: String = (0..count).fold(String::new(), |mut list, i| {
        writeln!(list, "file 'wav/{i}.wav'").unwrap();
        list
    });
    fs::write(dir.join("list.txt"), list).unwrap();
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "concat", "-safe", "0", "-i"])
        .arg(dir.join("list.txt"))
        .args(["-c:a", "libopus", "-b:a", "32k"])
        .arg(dir.join("long.opus"))
        .status();
    assert!(done.unwrap().success());
    let line = |i: usize| {
        let offset = i * UTTERANCE_SECONDS;
        format!(
            "{{\"audio_filepath\": \"long.opus\", \"id\": \"l{i}\", \"offset\": {offset}, \"duration\": {UTTERANCE_SECONDS}, \"text\": \"第{i}句\"}}\n"
        )
    };
    fs::write(dir.join("long.jsonl"), (0..count).map(line).collect::<String>()).unwrap();
}
