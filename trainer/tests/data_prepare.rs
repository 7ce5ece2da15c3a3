//! `prepare` makes the same shards whatever the number of threads, and says what it left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use echat::data::prepare::{PrepareError, PrepareOptions, Prepared, Progress, Source, prepare};
use echat::data::shard::ShardError;
use echat::data::{Corpus, CorpusOptions, Target};
use echat::dist::{Solo, World};
use tempfile::TempDir;

fn wav(path: &Path, rate: u32, samples: u32) {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    (0..samples).for_each(|t| writer.write_sample((t * 7919 % 20_011) as i16).unwrap());
    writer.finalize().unwrap();
}

/// A manifest of `good` recordings of growing length, and the lines of `more`.
fn manifest(dir: &TempDir, good: u32, more: &[&str]) -> PathBuf {
    let mut lines = Vec::new();
    for i in 0..good {
        let rate = [16_000, 8_000, 44_100][i as usize % 3];
        wav(&dir.path().join(format!("{i}.wav")), rate, rate / 4 + 100 * i);
        lines.push(format!(r#"{{"audio_filepath": "{i}.wav", "text": "第{i}", "emotion": "neutral"}}"#));
    }
    lines.extend(more.iter().map(ToString::to_string));
    let path = dir.path().join("m.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn run(manifest: &Path, out: &Path, options: &PrepareOptions) -> Result<Prepared, PrepareError> {
    watched(manifest, out, options, &mut |_| {})
}

fn watched(
    manifest: &Path,
    out: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Prepared, PrepareError> {
    let source = Source::json_lines(manifest);
    Ok(prepare(&[source], out, options, &mut Solo::new(World::single("here")), progress)?.unwrap())
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let mut files: Vec<_> =
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 40, &[r#"{"audio_filepath": "none.wav", "text": "x"}"#]);
    let options = PrepareOptions { max_bad_share: 0.1, shard_bytes: 100_000, ..PrepareOptions::default() };
    let made: Vec<_> = [1, 2, 3]
        .map(|threads| {
            let out = dir.path().join(format!("out{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&m, &out, &options)).unwrap();
            files(&out)
        })
        .into();
    assert!(made[0].len() > 4, "several shards");
    assert!(made[0] == made[1] && made[0] == made[2]);
}

#[test]
fn shards_hold_what_the_manifest_does() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 10, &[r#"{"text": "回答", "context": "问题"}"#]);
    let out = dir.path().join("out");
    let mut seen = Progress::default();
    watched(&m, &out, &PrepareOptions::default(), &mut |p| seen = *p).unwrap();
    assert_eq!((seen.total, seen.done, seen.rejected), (11, 11, 0));
    let options =
        CorpusOptions { target: Target::Text, min_seconds: 0.1, max_seconds: 30.0, max_bad_share: 0.0, verify: true };
    let (plain, shards) = (Corpus::open(&[m], &options).unwrap(), Corpus::open(&[out], &options).unwrap());
    assert_eq!(plain.costs(), shards.costs());
    for i in 0..11 {
        assert_eq!(plain.get(i).unwrap(), shards.get(i).unwrap());
    }
}

#[test]
fn what_cannot_be_used_is_listed() {
    let dir = TempDir::new().unwrap();
    wav(&dir.path().join("short.wav"), 16_000, 100);
    wav(&dir.path().join("long.wav"), 16_000, 17_000);
    wav(&dir.path().join("none.wav"), 16_000, 0);
    fs::write(dir.path().join("empty.wav"), "").unwrap();
    let whole = fs::read(dir.path().join("long.wav")).unwrap();
    fs::write(dir.path().join("cut.wav"), &whole[..1000]).unwrap();
    let bad = ["short", "long", "none", "empty", "cut", "missing"];
    let lines: Vec<String> = bad.iter().map(|n| format!(r#"{{"audio_filepath": "{n}.wav", "text": "x"}}"#)).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push(r#"{"audio_filepath": "0.wav", "text": "", "id": "silent"}"#);
    let m = manifest(&dir, 3, &lines);
    let options = PrepareOptions { max_seconds: 1.0, max_bad_share: 0.7, ..PrepareOptions::default() };
    let out = dir.path().join("out");
    let prepared = run(&m, &out, &options).unwrap();
    assert_eq!(prepared.index.utterances, 3);
    let listed = fs::read_to_string(out.join("rejects.jsonl")).unwrap();
    let listed: Vec<serde_json::Value> = listed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let wanted = [
        "shorter",
        "longer than",
        "no audio samples",
        "empty (0 bytes)",
        "truncated",
        "cannot be read",
        "neither text",
    ];
    assert_eq!(listed.len(), wanted.len());
    for (i, (json, wanted)) in listed.iter().zip(wanted).enumerate() {
        let reason = json["reason"].as_str().unwrap();
        assert!(reason.contains(wanted), "{reason} ≠ {wanted}");
        assert!(json["source"].as_str().unwrap().ends_with(&format!("m.jsonl:{}", i + 4)));
    }
    assert_eq!(listed[6]["id"], "silent");
}

#[test]
fn too_many_bad_ones_are_an_error_and_leave_no_corpus() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 3, &[r#"{"audio_filepath": "none.wav", "text": "x"}"#]);
    let out = dir.path().join("out");
    let error = run(&m, &out, &PrepareOptions::default()).unwrap_err();
    assert!(matches!(error, PrepareError::TooManyBad { bad: 1, total: 4, .. }), "{error}");
    assert!(fs::read_to_string(out.join("rejects.jsonl")).unwrap().contains("m.jsonl:4"));
    assert!(!out.join("index.json").exists());
}

#[test]
fn an_output_directory_that_is_not_empty_is_refused() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 1, &[]);
    let error = run(&m, dir.path(), &PrepareOptions::default()).unwrap_err();
    assert!(matches!(error, PrepareError::Shard(ShardError::NotEmpty { .. })), "{error}");
}

fn echat(args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_echat")).arg("prepare").args(args).output().unwrap()
}

#[test]
fn the_command_says_what_it_made_and_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 3, &[]);
    let out = dir.path().join("out");
    let made = echat(&[&m, &out]);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success());
    assert_eq!(said, format!("{}: 3 utterances, 0.00 h, in 1 shards\n", out.display()));
    let again = String::from_utf8(echat(&[&m, &out]).stdout).unwrap();
    assert_eq!(
        again,
        format!("{}: 3 utterances, 0.00 h, in 1 shards; an earlier run had made it all\n", out.display())
    );
    let other = echat(&[&m, dir.path()]);
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(!other.status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("not empty"), "{said}");
}

#[test]
fn a_look_at_the_transcripts_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let m =
        manifest(&dir, 3, &[r#"{"audio_filepath": "0.wav", "text": "ＡＢ c", "duration": 1.5, "emotion": "glad"}"#]);
    let before = files(dir.path()).len();
    let shown = echat(&[
        &m,
        &dir.path().join("out"),
        Path::new("--show"),
        Path::new("2"),
        Path::new("--text-spaces"),
        Path::new("join"),
    ]);
    let said = String::from_utf8(shown.stdout).unwrap();
    for part in
        ["m.jsonl: jsonl; text: width keep, case keep, punctuation keep, spaces join", "written: 第0", "becomes: 第1"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert!(said.contains("unknown emotion `glad`") && !said.contains("第2"), "{said}");
    let total = "3 utterances in 3 recordings, 0.00 h, 3 of a length that only decoding tells, 1 that cannot be used\n";
    assert!(said.ends_with(total), "{said}");
    assert_eq!(files(dir.path()).len(), before);
}

#[test]
fn a_directory_of_other_transcripts_or_options_is_refused() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 3, &[]);
    let out = dir.path().join("out");
    run(&m, &out, &PrepareOptions::default()).unwrap();
    let before = files(&out);
    let other = PrepareOptions { max_seconds: 20.0, ..PrepareOptions::default() };
    let error = run(&m, &out, &other).unwrap_err().to_string();
    assert!(error.contains("max_seconds: 60.0 there, 20.0 now"), "{error}");
    let text = fs::read_to_string(&m).unwrap().replace("第1", "第9");
    fs::write(&m, text).unwrap();
    let error = run(&m, &out, &PrepareOptions::default()).unwrap_err().to_string();
    assert!(error.contains("transcripts_sha256"), "{error}");
    assert!(files(&out) == before);
}

#[test]
fn a_source_that_changes_meanwhile_is_said() {
    let dir = TempDir::new().unwrap();
    let first = manifest(&dir, 12, &[]);
    let second = dir.path().join("second.jsonl");
    let line = |i: usize| format!("{{\"audio_filepath\": \"{}.wav\", \"text\": \"t\", \"id\": \"s{i}\"}}\n", i % 12);
    let lines = |count: usize| (0..count).map(line).collect::<String>();
    let options = PrepareOptions { shard_bytes: 400_000, ..PrepareOptions::default() };
    for changed in [1, 5, 7, 30] {
        let out = dir.path().join(format!("out{changed}"));
        fs::write(&second, lines(6)).unwrap();
        // The second source is opened when the first parts of the first one are made.
        let sources = [Source::json_lines(&first), Source::json_lines(&second)];
        let mut solo = Solo::new(World::single("here"));
        let error = prepare(&sources, &out, &options, &mut solo, &mut |_| fs::write(&second, lines(changed)).unwrap());
        let error = error.unwrap_err();
        assert!(matches!(error, PrepareError::Changed { .. }), "{changed}: {error}");
        assert!(error.to_string().contains("a source changed meanwhile"), "{error}");
        assert!(!out.join("index.json").exists());
    }
}

#[test]
fn a_mended_recording_is_taken_with_retry() {
    let dir = TempDir::new().unwrap();
    let m = manifest(&dir, 12, &[]);
    let options = PrepareOptions { shard_bytes: 60_000, max_bad_share: 0.5, ..PrepareOptions::default() };
    let whole = dir.path().join("whole");
    run(&m, &whole, &options).unwrap();
    let good = fs::read(dir.path().join("5.wav")).unwrap();
    fs::write(dir.path().join("5.wav"), "").unwrap();
    let out = dir.path().join("out");
    assert_eq!(run(&m, &out, &options).unwrap().rejected, 1);
    fs::write(dir.path().join("5.wav"), good).unwrap();
    let again = run(&m, &out, &options).unwrap();
    assert!(again.unchanged && again.rejected == 1);
    let strict = PrepareOptions { max_bad_share: 0.0, ..options.clone() };
    let error = run(&m, &out, &strict).unwrap_err().to_string();
    assert!(error.contains("5.wav") && error.contains("--retry"), "{error}");
    let mut made = 0;
    let retry = PrepareOptions { retry: true, ..options };
    let mended = watched(&m, &out, &retry, &mut |p| made = p.done).unwrap();
    assert!(mended.rejected == 0 && (1..12).contains(&made), "{made} utterances were made again");
    assert!(files(&out) == files(&whole));
}
