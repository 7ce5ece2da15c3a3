//! The MPI collective at 2 and 3 ranks, and what happens when a rank fails.
//!
//! Each test runs this very binary under mpirun, with one of the programs at the end of the file (ignored tests) on every rank.
#![cfg(feature = "mpi")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use echat::dist::{self, Collective, DistConfig, Error, Waiting, World};
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(60);

struct Outcome {
    success: bool,
    stdout: String,
    stderr: String,
}

/// Runs `program` on `ranks` ranks; panics if they have not ended after a minute.
fn mpirun(ranks: usize, program: &str) -> Outcome {
    let mut child = Command::new("mpirun")
        .args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args([program, "--exact", "--ignored", "--nocapture"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun is needed to test the mpi feature");
    let mut pipes = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let stdout = std::thread::spawn(move || read_all(&mut pipes.0));
    let stderr = std::thread::spawn(move || read_all(&mut pipes.1));
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > DEADLINE => {
                child.kill().unwrap();
                panic!("{program} at {ranks} ranks did not end:\n{}", stderr.join().unwrap());
            }
            None => sleep(Duration::from_millis(20)),
        }
    };
    Outcome { success: status.success(), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn read_all(pipe: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The lines of rank programs that begin with `word`, sorted.
fn lines(outcome: &Outcome, word: &str) -> Vec<String> {
    assert!(outcome.success, "{}\n{}", outcome.stdout, outcome.stderr);
    let mut lines: Vec<String> =
        outcome.stdout.lines().filter_map(|l| l.find(word).map(|at| l[at..].to_owned())).collect();
    lines.sort();
    lines
}

#[test]
fn sums_are_right_and_bitwise_equal_on_all_ranks_and_runs() {
    for ranks in [2, 3] {
        let first = lines(&mpirun(ranks, "program_sums"), "SUM");
        assert_eq!(first.len(), LENGTHS.len() * ranks);
        for sums in first.chunks(ranks) {
            assert!(sums.iter().all(|s| s == &sums[0]), "{sums:?}");
        }
        assert_eq!(first, lines(&mpirun(ranks, "program_sums"), "SUM"));
    }
}

#[test]
fn every_operation_at_one_two_and_three_ranks() {
    for ranks in [1, 2, 3] {
        let done = lines(&mpirun(ranks, "program_operations"), "DONE");
        assert_eq!(done, (0..ranks).map(|r| format!("DONE {r} of {ranks}")).collect::<Vec<_>>());
    }
}

#[test]
fn an_error_on_one_rank_ends_all_with_one_line() {
    let outcome = mpirun(3, "program_error_on_rank_1");
    assert!(!outcome.success);
    let said: Vec<&str> = outcome.stderr.lines().filter(|l| l.starts_with("rank ")).collect();
    assert_eq!(said.len(), 1, "{}", outcome.stderr);
    assert!(
        said[0].starts_with("rank 1 on ") && said[0].ends_with(": rank 9 does not exist: there are 3"),
        "{}",
        said[0]
    );
}

#[test]
fn a_panic_on_one_rank_ends_all() {
    let outcome = mpirun(3, "program_panic_on_rank_1");
    assert!(!outcome.success && outcome.stderr.contains("not today"), "{}", outcome.stderr);
}

#[test]
fn a_killed_rank_ends_all_and_is_named() {
    let outcome = mpirun(3, "program_killed_rank_1");
    assert!(!outcome.success);
    let flat = outcome.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("process rank 1") && flat.contains("signal 9"), "{}", outcome.stderr);
}

#[test]
fn a_hung_rank_is_named_after_the_timeout() {
    let outcome = mpirun(3, "program_hung_rank_2");
    assert!(!outcome.success);
    let said: Vec<&str> = outcome.stderr.lines().filter(|l| l.starts_with("rank ")).collect();
    assert_eq!(said.len(), 1, "{}", outcome.stderr);
    assert!(said[0].starts_with("rank 0 on ") && said[0].contains("in all-reduce for rank 2 on "), "{}", said[0]);
}

#[test]
fn a_rank_missing_from_a_wait_by_other_means_is_named() {
    for (program, call) in [("program_waiting_on_gpus", "in the GPUs' sum"), ("program_roll_call", "in a roll call")] {
        let outcome = mpirun(3, program);
        assert!(!outcome.success);
        let said: Vec<&str> = outcome.stderr.lines().filter(|l| l.starts_with("rank ")).collect();
        assert_eq!(said.len(), 1, "{}", outcome.stderr);
        assert!(
            said[0].starts_with("rank 0 on ") && said[0].contains(&format!("{call} for rank 2 on ")),
            "{}",
            said[0]
        );
    }
}

// The programs.

/// Around the limits of Open MPI's algorithms and of one MPI call.
const LENGTHS: [usize; 9] = [0, 1, 2, 3, 7, 1_000, 65_537, 1_000_003, (1 << 24) + 5];

fn value(rank: usize, i: usize) -> f32 {
    let mut x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((rank as u64 + 1) << 17);
    x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((x >> 40) as f32 / (1 << 24) as f32 - 0.5) * 1000f32.powi((x % 3) as i32)
}

fn job(config: &DistConfig, body: impl FnOnce(&mut dyn Collective) -> dist::Result<()>) {
    dist::run(World::from_env().unwrap(), config, body).unwrap();
}

#[test]
#[ignore = "a rank of another test"]
fn program_sums() {
    job(&DistConfig::default(), |c| {
        let (rank, size) = (c.world().rank, c.world().size);
        let mut pending = Vec::new();
        for n in LENGTHS {
            pending.push(c.start_all_reduce((0..n).map(|i| value(rank, i)).collect())?);
            c.progress()?;
        }
        // Not in the order of starting: a caller may wait as it likes, as long as all ranks do the same.
        let mut sums = Vec::new();
        for pending in pending.into_iter().rev() {
            sums.push(c.wait(pending)?);
        }
        for (n, sum) in LENGTHS.into_iter().zip(sums.into_iter().rev()) {
            assert_eq!(sum.len(), n);
            let mut hash = Sha256::new();
            for (i, s) in sum.iter().enumerate() {
                let parts = (0..size).map(|r| f64::from(value(r, i)));
                let (want, scale) = parts.fold((0.0, 0.0), |(w, a), p| (w + p, a + p.abs()));
                assert!(
                    (f64::from(*s) - want).abs() <= 2.0 * f64::from(f32::EPSILON) * scale,
                    "{n}[{i}]: {s} for {want}"
                );
                hash.update(s.to_le_bytes());
            }
            println!("SUM {n:>9} {:x?}", &hash.finalize()[..8]);
        }
        Ok(())
    });
}

#[test]
#[ignore = "a rank of another test"]
fn program_operations() {
    job(&DistConfig { timeout_seconds: 30, ..DistConfig::default() }, |c| {
        let (rank, size) = (c.world().rank, c.world().size);
        assert_eq!((c.world().local_rank, c.world().local_size), (rank, size));

        let mut counts = [rank as f64, 1.0, 0.25];
        c.all_reduce_f64(&mut counts)?;
        assert_eq!(counts, [(0..size).sum::<usize>() as f64, size as f64, 0.25 * size as f64]);

        for root in 0..size {
            let mut bytes = if rank == root { vec![root as u8; 70_000] } else { vec![9; rank] };
            c.broadcast_bytes(root, &mut bytes)?;
            assert_eq!(bytes, vec![root as u8; 70_000]);
            let mut values = [rank as f32, 0.5];
            c.broadcast_f32(root, &mut values)?;
            assert_eq!(values, [root as f32, 0.5]);
        }

        let gathered = c.all_gather_bytes(&vec![rank as u8; 3 * rank])?;
        assert_eq!(gathered, (0..size).map(|r| vec![r as u8; 3 * r]).collect::<Vec<_>>());
        assert_eq!(c.all_gather_bytes(&[])?, vec![Vec::<u8>::new(); size]);
        let long = (1 << 24) + 3 + rank;
        assert_eq!(c.all_gather_bytes(&vec![7; long])?.iter().map(Vec::len).collect::<Vec<_>>(), {
            let first = long - rank;
            (0..size).map(|r| first + r).collect::<Vec<_>>()
        });

        // Buffers go round: the same few serve step after step.
        let mut buffer = vec![1.0; 1000];
        for _ in 0..200 {
            let pending = c.start_all_reduce(buffer)?;
            buffer = c.wait(pending)?;
            assert!(buffer.iter().all(|&v| v == size as f32));
            buffer.fill(1.0);
        }
        assert!(matches!(c.broadcast_f32(size, &mut []), Err(Error::Root { .. })));
        c.barrier()?;
        println!("DONE {rank} of {size}");
        Ok(())
    });
}

#[test]
#[ignore = "a rank of another test"]
fn program_error_on_rank_1() {
    job(&DistConfig::default(), |c| {
        if c.world().rank == 1 {
            return c.broadcast_f32(9, &mut []);
        }
        c.barrier()
    });
}

#[test]
#[ignore = "a rank of another test"]
fn program_panic_on_rank_1() {
    job(&DistConfig::default(), |c| {
        assert!(c.world().rank != 1, "not today");
        c.barrier()
    });
}

#[test]
#[ignore = "a rank of another test"]
fn program_killed_rank_1() {
    job(&DistConfig::default(), |c| {
        if c.world().rank == 1 {
            Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
            sleep(DEADLINE);
        }
        c.barrier()
    });
}

#[test]
#[ignore = "a rank of another test"]
fn program_hung_rank_2() {
    job(&DistConfig { timeout_seconds: 2, ..DistConfig::default() }, |c| {
        if c.world().rank == 2 {
            sleep(DEADLINE);
        }
        if c.world().rank == 1 {
            // Late, but not missing.
            sleep(Duration::from_millis(1_900));
        }
        let pending = c.start_all_reduce(vec![0.0; 10])?;
        c.wait(pending).map(|_| ())
    });
}

/// Waits as for a GPU, with a limit of `seconds`; rank 2 does not come.
fn wait_without_rank_2(seconds: u64, mut waiting: Waiting) {
    job(&DistConfig { timeout_seconds: seconds, ..DistConfig::default() }, |c| {
        if c.world().rank == 2 {
            sleep(DEADLINE);
        }
        loop {
            c.watch(&mut waiting)?;
            sleep(Duration::from_micros(100));
        }
    });
}

#[test]
#[ignore = "a rank of another test"]
fn program_waiting_on_gpus() {
    wait_without_rank_2(2, Waiting::new("the GPUs' sum", "nobody"));
}

#[test]
#[ignore = "a rank of another test"]
fn program_roll_call() {
    wait_without_rank_2(3600, Waiting { at_once: true, ..Waiting::new("a roll call", "nobody") });
}
