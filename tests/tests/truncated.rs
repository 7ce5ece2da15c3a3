//! A shard truncated under a running job ends it with a line that names the file, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, OpenOptions};
use std::thread::sleep;
use std::time::{Duration, Instant};

use echat_tests::Fixture;

const SETS: [&str; 4] =
    ["train.steps=150", "checkpoint.every_steps=10", "data.train=[\"{root}/shards\"]", "validation.every=0"];
/// Nothing takes nearly as long.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_shard_truncated_under_a_running_job_ends_it_with_a_line_and_the_job_resumes_once_it_is_restored() {
    let fixture = Fixture::new();
    let (manifest, out) = (fixture.arg("train.jsonl"), fixture.arg("shards"));
    fixture.echat(1, &["prepare", &manifest, &out]).expect_success();
    let shard = fixture.path("shards/shard-00000.safetensors");
    let whole = fs::read(&shard).unwrap();
    for ranks in [1, 2] {
        let uninterrupted = format!("whole-{ranks}");
        fixture.trained(ranks, "stage1.toml", &uninterrupted, &SETS);
        let run = format!("truncated-{ranks}");
        let mut running = fixture.start_train(ranks, "stage1.toml", &run, &SETS, &[]);
        let begun = Instant::now();
        while !fixture.checkpoint(&run, 10).join("COMPLETE").exists() {
            assert!(!running.has_ended() && begun.elapsed() < LIMIT, "step 10 was not reached");
            sleep(Duration::from_millis(1));
        }
        // At a page's end: of the rest of a page zeros would be read, and a checksum would not match.
        let kept = (whole.len() / 2).next_multiple_of(4096);
        OpenOptions::new().write(true).open(&shard).unwrap().set_len(kept as u64).unwrap();
        let outcome = running.wait_for(LIMIT);
        assert_eq!(outcome.code, Some(1), "{}\n{}", outcome.stdout, outcome.stderr);
        let prefix = if ranks == 1 { "error: " } else { "rank " };
        let wanted = format!("{}: truncated while in use; restore it and resume", shard.display());
        let said = |line: &&str| line.starts_with(prefix) && line.ends_with(&wanted);
        assert!((1..=ranks).contains(&outcome.stderr.lines().filter(said).count()), "{}", outcome.stderr);
        assert!(!fixture.checkpoint(&run, 150).exists(), "it was truncated too late to say anything");

        fs::write(&shard, &whole).unwrap();
        fixture.train(ranks, "stage1.toml", &run, &SETS, &["--resume", "auto"]).expect_success();
        assert_eq!(fixture.metrics(&uninterrupted).repeatable(), fixture.metrics(&run).repeatable());
        assert!(fixture.weights(&uninterrupted, 150) == fixture.weights(&run, 150), "other weights");
    }
}
