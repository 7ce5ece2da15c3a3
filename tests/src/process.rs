//! The `echat` binary as a process, or several under mpirun.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime};

/// Nothing here takes nearly as long, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// A running `echat`.
pub struct Running {
    child: Child,
    ranks: usize,
    args: Vec<String>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The binary, which `cargo test --workspace` builds beside the tests; with `--test NAME` cargo leaves it as it was, and a test of
/// an old one would say nothing.
fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = target().join("echat");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let sources = ["kernels/src", "launch/src", "trainer/src"].map(|dir| newest(&root.join(dir)));
        let built = path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let command = "cargo build --workspace --features echat/mpi";
        assert!(sources.iter().all(|source| *source <= built), "{} is not of these sources: {command}", path.display());
        path
    });
    &BINARY
}

/// Where cargo puts what it builds for this profile.
pub(crate) fn target() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// When a file below `dir` was last changed.
fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let times =
        entries.map(|path| if path.is_dir() { newest(&path) } else { path.metadata().unwrap().modified().unwrap() });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Running {
    /// Starts `echat ARGS` on `ranks` ranks.
    pub fn start(ranks: usize, args: &[String]) -> Self {
        Self::start_with(ranks, args, &[])
    }

    /// The same with variables of the environment, for ranks on this machine.
    pub fn start_with(ranks: usize, args: &[String], env: &[(String, String)]) -> Self {
        let mut command = Command::new(binary());
        if ranks > 1 {
            command = Command::new("mpirun");
            command.args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()]).arg(binary());
            command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        }
        command.args(args).envs(env.iter().map(|(name, value)| (name, value)));
        Self::spawn(command, ranks, args)
    }

    /// The binary, for scripts that start it themselves.
    pub fn binary_path() -> String {
        binary().to_str().unwrap().to_owned()
    }

    /// Starts `echat ARGS` from a shell, after `prelude`.
    pub fn start_in_shell(prelude: &str, args: &[String]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{prelude}\nexec \"$0\" \"$@\"")]).arg(binary()).args(args);
        Self::spawn(command, 1, args)
    }

    fn spawn(mut command: Command, ranks: usize, args: &[String]) -> Self {
        command.env_remove("ECHAT_THREADS").env_remove("OMP_NUM_THREADS");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let stdout = read_all(child.stdout.take().unwrap());
        let stderr = read_all(child.stderr.take().unwrap());
        Self { child, ranks, args: args.to_vec(), stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end, which must come within `limit`.
    pub fn wait_for(mut self, limit: Duration) -> Outcome {
        let begun = Instant::now();
        while !self.has_ended() {
            if begun.elapsed() > limit {
                self.pids().into_iter().for_each(|pid| signal("KILL", pid));
                self.child.kill().unwrap();
                panic!(
                    "echat {:?} did not end within {limit:?}:\n{}",
                    self.args,
                    self.stderr.take().unwrap().join().unwrap()
                );
            }
            sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        let text = |pipe: &mut Option<JoinHandle<String>>| pipe.take().unwrap().join().unwrap();
        Outcome { code, stdout: text(&mut self.stdout), stderr: text(&mut self.stderr) }
    }

    /// Waits for its end.
    pub fn wait(self) -> Outcome {
        self.wait_for(DEADLINE)
    }

    /// The process of rank `rank`, once it is there.
    pub fn rank(&mut self, rank: usize) -> Option<u32> {
        if self.ranks == 1 {
            return Some(self.child.id());
        }
        let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
        self.pids().into_iter().find(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
        })
    }

    /// The children of mpirun, or the process itself.
    fn pids(&self) -> Vec<u32> {
        if self.ranks == 1 {
            return vec![self.child.id()];
        }
        let mine = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // "pid (name) state parent …"; a name may hold anything.
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(self.child.id())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(mine).collect()
    }
}

/// Sends a signal.
pub fn signal(name: &str, pid: u32) {
    // It may have ended meanwhile.
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {pid} 2>/dev/null")]).status().unwrap();
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Outcome {
    /// Panics unless it succeeded.
    pub fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless a line it printed has all `parts`.
    pub fn expect_said(&self, parts: &[&str]) {
        let mut lines = self.stdout.lines().chain(self.stderr.lines());
        let found = lines.any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "expected a line with {parts:?}:\n{}\n{}", self.stdout, self.stderr);
    }

    /// The one line that says why it failed: `error: …` or `rank N on HOST: …`. Panics if there is not exactly one.
    pub fn error_line(&self) -> String {
        assert!(self.code != Some(0), "expected an error:\n{}\n{}", self.stdout, self.stderr);
        let is_error = |line: &&str| {
            let rank = line.strip_prefix("rank ").and_then(|rest| rest.split_once(" on "));
            line.starts_with("error: ") || rank.is_some_and(|(n, _)| n.parse::<usize>().is_ok())
        };
        let lines: Vec<&str> = self.stderr.lines().filter(is_error).collect();
        assert_eq!(lines.len(), 1, "expected one line that says what is wrong:\n{}", self.stderr);
        assert!(!lines[0].contains("a bug in echat"), "{}", lines[0]);
        lines[0].to_owned()
    }

    /// Panics unless [`Outcome::error_line`] has all `parts`.
    pub fn expect_error(&self, parts: &[&str]) {
        let line = self.error_line();
        for part in parts {
            assert!(line.contains(part), "expected `{part}` in: {line}");
        }
        println!("{line}");
    }
}
