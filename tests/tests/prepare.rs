//! `echat prepare` makes the same bytes on any number of ranks, whatever interrupts it; a full or closed disk costs nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use echat_tests::{Fixture, Running, signal, some_number, write_wav};

/// A Kaldi directory of `count` utterances of half a second to a second, two of which cannot be used.
fn kaldi(fixture: &Fixture, count: usize) -> String {
    let (mut scp, mut text) = (String::new(), String::new());
    for i in 0..count {
        let samples: Vec<i16> =
            (0..8_000 + (i as i64 * 379) % 8_000).map(|t| (t * (i as i64 + 3) % 9_001) as i16).collect();
        let name = format!("data/wavs/{i}.wav");
        fs::create_dir_all(fixture.path("data/wavs")).unwrap();
        write_wav(&fixture.path(&name), &samples);
        scp += &format!("utt{i:05} {}\n", fixture.arg(&name));
        text += &format!("utt{i:05} 第 {i} 句\n");
    }
    fs::write(fixture.path("data/wavs/7.wav"), "").unwrap();
    fs::remove_file(fixture.path("data/wavs/23.wav")).unwrap();
    fixture.write("data/wav.scp", &scp);
    fixture.write("data/text", &text);
    fixture.arg("data")
}

/// Shards of 1 MiB: about forty utterances of the corpus above each.
fn args(source: &str, out: &str) -> Vec<String> {
    let options = ["--shard-mib", "1", "--max-bad-share", "0.05"].map(String::from);
    [["prepare", source, out].map(String::from).to_vec(), options.to_vec()].concat()
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect()
}

#[test]
fn every_number_of_ranks_makes_the_same_bytes() {
    let fixture = Fixture::new();
    let source = kaldi(&fixture, 300);
    let made = [1, 2, 3].map(|ranks| {
        let out = fixture.arg(&format!("out{ranks}"));
        // A run that was killed while it made its first file left a directory that counts as empty.
        fixture.write(&format!("out{ranks}/.prepare.json.tmp"), "{");
        let outcome = Running::start(ranks, &args(&source, &out)).wait().expect_success();
        outcome.expect_said(&["298 utterances", "; 2 left out, listed in ", "rejects.jsonl"]);
        contents(Path::new(&out))
    });
    let shards = made[0].keys().filter(|name| name.extension().is_some_and(|e| e == "safetensors")).count();
    assert!(shards >= 5, "{:?}", made[0].keys());
    assert!(made[0] == made[1] && made[0] == made[2]);
}

#[test]
fn killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes() {
    let fixture = Fixture::new();
    let source = kaldi(&fixture, 1_200);
    let whole = fixture.arg("whole");
    let begun = std::time::Instant::now();
    Running::start(1, &args(&source, &whole)).wait().expect_success();
    let takes = begun.elapsed();
    let whole = contents(Path::new(&whole));
    for (ranks, round) in [(1, 0), (1, 1), (2, 2)] {
        let out = fixture.arg(&format!("killed{round}"));
        let mut running = Running::start(ranks, &args(&source, &out));
        let moment = Duration::from_micros(some_number(takes.as_micros() as u64));
        println!("{ranks} ranks, killed after {moment:?}");
        sleep(moment);
        for rank in 0..ranks {
            running.rank(rank).into_iter().for_each(|pid| signal("KILL", pid));
        }
        running.wait();
        // Whatever it has left: every shard that can be seen is whole.
        if Path::new(&out).exists() {
            let left = contents(Path::new(&out));
            let finished = |name: &Path| name.extension().is_some_and(|e| e == "safetensors");
            assert!(left.iter().filter(|(name, _)| finished(name)).all(|(name, bytes)| whole.get(name) == Some(bytes)));
        }
        Running::start(ranks, &args(&source, &out)).wait().expect_success();
        let made = contents(Path::new(&out));
        let differ = |name: &&PathBuf| made.get(*name) != whole.get(*name);
        let names: Vec<_> = made.keys().chain(whole.keys()).filter(differ).collect();
        assert!(names.is_empty(), "{names:?}");
    }
}

#[test]
fn what_is_done_is_not_done_again() {
    let fixture = Fixture::new();
    let source = kaldi(&fixture, 300);
    let out = fixture.arg("out");
    Running::start(1, &args(&source, &out)).wait().expect_success();
    let whole = contents(Path::new(&out));
    // As if it had been killed before its last shard: that one alone is made again, from recordings that are still there.
    let index: serde_json::Value = serde_json::from_slice(&whole[Path::new("index.json")]).unwrap();
    let shards = index["shards"].as_array().unwrap();
    let rejects: Vec<serde_json::Value> = String::from_utf8_lossy(&whole[Path::new("rejects.jsonl")])
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let last = shards.len() - 1;
    for (part, shard) in shards.iter().enumerate().take(last) {
        let bytes = whole[Path::new(shard["file"].as_str().unwrap())].len();
        let of_part = if part == 0 { rejects.clone() } else { Vec::new() };
        let record = serde_json::json!({"shards": [shard], "bytes": [bytes], "rejects": of_part});
        fs::write(Path::new(&out).join(format!(".part-{part:05}.json")), record.to_string()).unwrap();
    }
    fs::remove_file(Path::new(&out).join("index.json")).unwrap();
    fs::remove_file(Path::new(&out).join(shards[last]["file"].as_str().unwrap())).unwrap();
    let made_last = shards[last]["utterances"].as_u64().unwrap();
    let kept: Vec<u64> = (300 - made_last..300).collect();
    for entry in fs::read_dir(fixture.path("data/wavs")).unwrap() {
        let path = entry.unwrap().path();
        let number: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        if !kept.contains(&number) {
            fs::remove_file(path).unwrap();
        }
    }
    Running::start(1, &args(&source, &out)).wait().expect_success();
    assert!(contents(Path::new(&out)) == whole);
}

#[test]
fn too_many_bad_ones_end_all_ranks_with_one_line() {
    let fixture = Fixture::new();
    let source = kaldi(&fixture, 100);
    let out = fixture.arg("out");
    for ranks in [1, 2] {
        let strict = ["prepare", &source, &out, "--shard-mib", "1"].map(String::from);
        let outcome = Running::start(ranks, &strict).wait();
        outcome.expect_error(&["2 of 100 utterances cannot be used", "rejects.jsonl", "--max-bad-share"]);
        assert!(!Path::new(&out).join("index.json").exists());
    }
    // Allowing more is enough: what was made is kept.
    Running::start(1, &args(&source, &out)).wait().expect_success();
}

#[test]
fn a_full_disk_is_one_line_and_what_was_written_is_kept() {
    let fixture = Fixture::new();
    let source = kaldi(&fixture, 300);
    fixture.write("small/.keep", "");
    let (small, mount) = (fixture.arg("small"), "mount -t tmpfs -o size=3m tmpfs \"$SMALL\"");
    let unshare = |script: &str| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec", script])
            .env("SMALL", &small)
            .output()
    };
    if !unshare(mount).is_ok_and(|out| out.status.success()) {
        return println!("not run: this system does not let us mount a small file system");
    }
    let binary = Running::binary_path();
    let out = format!("{small}/out");
    let script = format!(
        "{mount}\n! \"{binary}\" {} 2>\"$SMALL/../said\"\nls -A \"$SMALL/out\" > \"$SMALL/../left\"\nmount -o remount,size=100m \"$SMALL\"\n\
         \"{binary}\" {}\ncp -r \"$SMALL/out\" \"$SMALL/../grown\"",
        args(&source, &out).join(" "),
        args(&source, &out).join(" "),
    );
    let done = unshare(&script).unwrap();
    let said = fs::read_to_string(fixture.path("said")).unwrap();
    assert!(done.status.success(), "{}{said}", String::from_utf8_lossy(&done.stderr));
    let errors: Vec<&str> = said.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(errors[0].contains("No space left on device") && errors[0].contains("small/out/"), "{said}");
    let left = fs::read_to_string(fixture.path("left")).unwrap();
    assert!(
        left.contains("shard-00000.safetensors") && !left.contains("index.json") && !left.contains(".tmp"),
        "{left}"
    );
    let whole = fixture.arg("whole");
    Running::start(1, &args(&source, &whole)).wait().expect_success();
    assert!(contents(&fixture.path("grown")) == contents(Path::new(&whole)));
}

#[test]
fn a_directory_that_may_not_be_read_or_written_is_named() {
    let fixture = Fixture::new();
    let source = kaldi(&fixture, 30);
    let binary = Running::binary_path();
    fixture.write("closed/out/.keep", "");
    // Root may read everything: become nobody.
    let nobody = |args: &[String]| {
        let prelude = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        Command::new("setpriv").args(prelude).arg(&binary).args(args).output()
    };
    if !nobody(&["--version".into()]).is_ok_and(|out| out.status.success()) {
        return println!("not run: we are not root, or others may not run the binary");
    }
    let open = |path: &Path, mode: &str| assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
    open(fixture.root(), "755");
    open(&fixture.path("data"), "000");
    let line = |args: &[String]| String::from_utf8(nobody(args).unwrap().stderr).unwrap();
    let unreadable = line(&args(&source, &fixture.arg("out")));
    open(&fixture.path("data"), "755");
    assert!(
        unreadable.starts_with(&format!("error: {source}")) && unreadable.contains("Permission denied"),
        "{unreadable}"
    );
    let unwritable = line(&args(&source, &fixture.arg("closed/new")));
    assert!(unwritable.contains("closed/new: cannot be made: Permission denied"), "{unwritable}");
    assert_eq!((unreadable.lines().count(), unwritable.lines().count()), (1, 1));
}
