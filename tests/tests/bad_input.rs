//! What is wrong with settings, data, checkpoints or the disk is said in one line, and costs nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, OpenOptions};
use std::path::Path;

use echat_tests::{Fixture, Running, write_wav};

/// A short run with checkpoints of steps 2 and 4.
const SHORT: [&str; 5] = [
    "train.steps=4",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=0",
    "validation.every=2",
    "schedule.kind=\"constant\"",
];
/// The same, two steps longer.
const LONGER: [&str; 5] = ["train.steps=6", SHORT[1], SHORT[2], SHORT[3], SHORT[4]];

/// `echat train` with `sets` fails with a line that has `parts`, and leaves the run directory as good as new.
fn expect_refused(fixture: &Fixture, sets: &[&str], parts: &[&str]) {
    fixture.train(1, "stage1.toml", "refused", sets, &[]).expect_error(parts);
    if fixture.path("refused").exists() {
        assert!(fixture.contents("refused").is_empty(), "{:?}", fixture.contents("refused").keys());
    }
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let fixture = Fixture::new();
    fixture.write("typo.toml", "base = \"stage1.toml\"\n[train]\nstpes = 3\n");
    let outcome = fixture.train(1, "typo.toml", "run", &[], &[]);
    outcome.expect_error(&["typo.toml:3", "unknown key `train.stpes`; did you mean `train.steps`?"]);
    assert!(!fixture.path("run").exists());
}

#[test]
fn a_value_of_the_wrong_type_names_its_line() {
    let fixture = Fixture::new();
    fixture.write("typo.toml", "base = \"stage1.toml\"\n[train]\nsteps = \"many\"\n");
    let outcome = fixture.train(1, "typo.toml", "run", &[], &[]);
    outcome.expect_error(&["typo.toml:3", "`train.steps`", "\"many\""]);
    assert!(!fixture.path("run").exists());
}

#[test]
fn missing_files_are_named() {
    let fixture = Fixture::new();
    fixture.train(1, "nowhere.toml", "run", &[], &[]).expect_error(&["nowhere.toml", "No such file"]);
    expect_refused(&fixture, &["data.train=[\"{root}/nowhere.jsonl\"]"], &["nowhere.jsonl", "No such file"]);
    expect_refused(&fixture, &["encoder.path=\"{root}/nowhere\""], &["nowhere"]);
    expect_refused(&fixture, &["decoder.path=\"{root}/nowhere\""], &["nowhere: no such directory (decoder.path"]);
    expect_refused(&fixture, &["model.init=[\"{root}/nowhere\"]"], &["nowhere"]);
}

#[test]
fn an_error_all_ranks_find_is_said_once() {
    let fixture = Fixture::new();
    let at_three = |sets: &[&str], parts: &[&str]| {
        fixture.train(3, "stage1.toml", "run", sets, &[]).expect_error(parts);
    };
    at_three(&["train.stpes=3"], &["--set train.stpes=3", "`train.steps`"]);
    let missing = "nowhere.jsonl: cannot be read: No such file or directory (os error 2)";
    at_three(&["data.train=[\"{root}/nowhere.jsonl\"]"], &["rank 0 on ", missing]);
    fixture.write("run/own-file", "");
    at_three(&[], &["rank 0 on ", "not empty"]);
}

#[test]
fn a_malformed_manifest_line_is_named() {
    let fixture = Fixture::new();
    let good = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    let third_line = |line: &str| {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[2] = line;
        fixture.write("bad.jsonl", &lines.join("\n"));
    };
    let sets = ["data.train=[\"{root}/bad.jsonl\"]"];
    third_line(r#"{"audio_filepath": "audio/train-2.wav", "text": "#);
    expect_refused(&fixture, &sets, &["bad.jsonl:3: "]);
    third_line(r#"{"audio_filepath": "audio/train-2.wav"}"#);
    expect_refused(&fixture, &sets, &["bad.jsonl:3: ", "`text`"]);
    third_line(r#"{"audio_filepath": "audio/train-2.wav", "text": "好", "emotion": "glad"}"#);
    expect_refused(&fixture, &sets, &["bad.jsonl:3: ", "`glad`", "cheerful, fearful, angry, sad, neutral"]);
}

#[test]
fn nccl_without_gpus_says_what_to_set() {
    let why = if cfg!(feature = "cuda") { "the ranks compute on the CPU" } else { "built without GPUs" };
    let parts = ["dist.collective = \"nccl\"", why, "dist.collective = \"auto\""];
    expect_refused(&Fixture::new(), &["dist.collective=\"nccl\"", "dist.device=\"cpu\""], &parts);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn gpus_are_asked_of_a_build_without_them() {
    expect_refused(
        &Fixture::new(),
        &["dist.device=\"cuda\""],
        &["dist.device = \"cuda\"", "built without GPUs", "docs/cuda.md"],
    );
    let outcome = Running::start(1, &["gpu-check".to_owned()]).wait();
    outcome.expect_error(&["built without GPUs", "./launch/build-cuda"]);
}

/// Cuts a file in half.
fn truncate(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 16;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_shard_is_named() {
    let fixture = Fixture::new();
    let (manifest, out) = (fixture.arg("train.jsonl"), fixture.arg("shards"));
    fixture.echat(1, &["prepare", &manifest, &out]).expect_success();
    let shard = fixture.path("shards/shard-00000.safetensors");
    let name = shard.file_name().unwrap().to_str().unwrap();
    let whole = fs::read(&shard).unwrap();
    let train = "data.train=[\"{root}/shards\"]";

    flip(&shard);
    let outcome = fixture.train(1, "stage1.toml", "flipped", &[train], &[]);
    outcome.expect_error(&[name, "damaged: utterance ", "echat prepare"]);
    expect_refused(&fixture, &[train, "data.verify=true"], &[name, "damaged", "echat prepare"]);
    fs::write(&shard, whole).unwrap();
    truncate(&shard);
    expect_refused(&fixture, &[train], &[name]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning_and_refused_by_name() {
    let fixture = Fixture::new();
    fixture.trained(1, "stage1.toml", "whole", &LONGER);
    fixture.trained(1, "stage1.toml", "short", &SHORT);
    for (run, damage) in [("truncated", truncate as fn(&Path)), ("flipped", flip)] {
        fixture.copy_run("short", run);
        damage(&fixture.checkpoint(run, 4).join("model.safetensors"));
        let before = fixture.contents(run);
        let newest = format!("{{root}}/{run}/checkpoints/step-00000004");
        let outcome = fixture.train(1, "stage1.toml", run, &LONGER, &["--resume", &newest]);
        outcome.expect_error(&["step-00000004/model.safetensors is damaged", "use another checkpoint"]);
        assert_eq!(before, fixture.contents(run));

        let outcome = fixture.train(1, "stage1.toml", run, &LONGER, &["--resume", "auto"]).expect_success();
        let warnings: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
        assert_eq!(warnings.len(), 1, "{}", outcome.stderr);
        assert!(warnings[0].contains("step-00000004") && warnings[0].contains("damaged"), "{}", warnings[0]);
        outcome.expect_said(&["from step 2"]);
        assert_eq!(fixture.metrics("whole").repeatable(), fixture.metrics(run).repeatable());
        assert!(fixture.weights("whole", 6) == fixture.weights(run, 6), "other weights");
    }
}

#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let fixture = Fixture::new();
    fixture.trained(1, "stage1.toml", "run", &SHORT);
    let before = fixture.contents("run");
    let sets: Vec<&str> = LONGER.into_iter().chain(["connector.ffn=48"]).collect();
    let outcome = fixture.train(1, "stage1.toml", "run", &sets, &["--resume", "auto"]);
    outcome.expect_error(&[
        "step-00000004 does not fit the model",
        "of another shape: connector.",
        "use the configuration",
    ]);
    assert_eq!(before, fixture.contents("run"));
}

#[test]
fn a_directory_with_a_run_in_it_is_not_touched_without_resume() {
    let fixture = Fixture::new();
    fixture.trained(1, "stage1.toml", "run", &SHORT);
    let before = fixture.contents("run");
    fixture.train(1, "stage1.toml", "run", &LONGER, &[]).expect_error(&["/run is not empty", "--resume auto"]);
    assert_eq!(before, fixture.contents("run"));
}

/// Appends five recordings of no use to the training manifest, as `bad.jsonl`.
fn add_bad_recordings(fixture: &Fixture) {
    fixture.write("audio/no-bytes.wav", "");
    write_wav(&fixture.path("audio/no-samples.wav"), &[]);
    write_wav(&fixture.path("audio/too-short.wav"), &[0; 100]);
    fixture.write("audio/no-audio.wav", "this is text");
    let mut manifest = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    for name in ["no-bytes", "no-samples", "too-short", "no-audio", "no-file"] {
        manifest += &format!("{{\"audio_filepath\": \"audio/{name}.wav\", \"text\": \"好\"}}\n");
    }
    fixture.write("bad.jsonl", &manifest);
}

#[test]
fn recordings_of_no_use_are_left_out_counted_and_listed() {
    let fixture = Fixture::new();
    add_bad_recordings(&fixture);
    let train = "data.train=[\"{root}/bad.jsonl\"]";
    let outcome = fixture.train(1, "stage1.toml", "run", &[train, "data.max_bad_share=0.2"], &[]).expect_success();
    outcome.expect_said(&["32 utterances", "1 left out as too short", "4 left out as unusable"]);
    for (line, name) in [(33, "no-bytes"), (34, "no-samples"), (36, "no-audio"), (37, "no-file")] {
        outcome.expect_said(&["left out", &format!("bad.jsonl:{line}"), &format!("audio/{name}.wav")]);
    }
    expect_refused(&fixture, &[train], &["4 of 37 utterances cannot be used", "max_bad_share", "bad.jsonl:33"]);
}

#[test]
fn recordings_found_damaged_on_the_way_are_left_out_too() {
    let fixture = Fixture::new();
    fixture.write("audio/no-audio.wav", "this is text");
    let mut manifest = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    // Its length need not be looked up, so it is opened only when its turn comes.
    manifest += "{\"audio_filepath\": \"audio/no-audio.wav\", \"text\": \"好\", \"duration\": 0.5, \"id\": \"bad\"}\n";
    fixture.write("bad.jsonl", &manifest);
    let train = "data.train=[\"{root}/bad.jsonl\"]";
    let outcome = fixture.train(2, "stage1.toml", "run", &[train, "data.max_bad_share=0.1"], &[]).expect_success();
    outcome.expect_said(&["left out", "bad.jsonl:33: bad: ", "no-audio.wav"]);
    let outcome = fixture.train(2, "stage1.toml", "strict", &[train], &[]);
    outcome.expect_error(&["1 of 33 utterances cannot be used", "bad.jsonl:33", "no-audio.wav"]);
}

#[test]
fn a_sequence_longer_than_the_context_names_the_utterance() {
    let fixture = Fixture::new();
    let mut manifest = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    let text = "好".repeat(100);
    manifest += &format!("{{\"audio_filepath\": \"audio/train-1.wav\", \"text\": \"{text}\", \"id\": \"endless\"}}\n");
    fixture.write("long.jsonl", &manifest);
    let sets = ["data.train=[\"{root}/long.jsonl\"]", "data.global_batch_seconds=100"];
    let outcome = fixture.train(1, "stage1.toml", "run", &sets, &[]);
    outcome.expect_error(&["`endless`", "101 of target", "at most 128", "data.max_seconds"]);
}

#[test]
fn no_rank_steps_on_a_loss_that_is_not_finite_and_too_many_end_the_run() {
    let fixture = Fixture::new();
    let sets = [
        "optimizer.lr=1e30",
        "optimizer.clip_norm=0",
        "train.max_nonfinite_steps=3",
        "checkpoint.every_steps=1",
        "checkpoint.keep_last=0",
    ];
    let outcome = fixture.train(2, "stage1.toml", "run", &sets, &[]);
    outcome.expect_error(&["step 5", "not finite", "no rank has stepped", "optimizer.lr", "train.max_nonfinite_steps"]);
    assert_eq!(outcome.stdout.matches("not finite, no rank steps").count(), 3, "{}", outcome.stdout);
    assert_eq!(fixture.metrics("run").of("optim/skipped_steps"), [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]);
    for step in 2..=4 {
        assert!(fixture.weights("run", 1) == fixture.weights("run", step), "step {step} changed something");
    }
}

#[test]
fn a_full_disk_costs_no_earlier_checkpoint() {
    let fixture = Fixture::new();
    fixture.trained(1, "stage1.toml", "whole", &LONGER);
    fixture.trained(1, "stage1.toml", "run", &SHORT);
    let before = fixture.contents("run/checkpoints");
    // No file may be longer than 100 kB: what fails first is the checkpoint.
    let args = fixture.train_args("stage1.toml", "run", &LONGER, &["--resume", "auto"]);
    let outcome = Running::start_in_shell("trap '' XFSZ; ulimit -f 200", &args).wait();
    outcome.expect_error(&["cannot write ", "step-00000006/", "free space", "saved before are intact"]);
    assert_eq!(before, fixture.contents("run/checkpoints"));
    fixture.train(1, "stage1.toml", "run", &LONGER, &["--resume", "auto"]).expect_success();
    assert_eq!(fixture.metrics("whole").repeatable(), fixture.metrics("run").repeatable());
    assert!(fixture.weights("whole", 6) == fixture.weights("run", 6), "other weights");
}
