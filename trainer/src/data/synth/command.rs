//! Speech by a local program: started for each text, or once and given jobs line by line.

use super::config::{CommandConfig, SpeechConfig};
use super::error::SynthError;
use super::pace::{Failure, Halt};
use super::speech::Question;
use super::template::fill;
use serde::Deserialize;
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What one thread needs to have programs speak.
pub struct Runner<'a> {
    config: &'a CommandConfig,
    timeout: Duration,
    folder: String,
    /// Variables with keys, which are no business of the program.
    hidden: &'a [String],
    /// What it says on standard error.
    log: PathBuf,
    halt: &'a Halt,
    server: Option<Server>,
}

/// A program that stays.
struct Server {
    child: Child,
    jobs: ChildStdin,
    replies: Receiver<String>,
}

#[derive(Deserialize)]
struct Reply {
    id: String,
    error: Option<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may hang; whatever it had to say has been read.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments of `config` for `question`.
pub fn arguments(config: &CommandConfig, question: &Question<'_>, out: &str, folder: &str) -> Vec<String> {
    let values = [
        ("id", question.id),
        ("text", question.text),
        ("emotion", question.emotion.name()),
        ("voice", question.voice),
        ("style", question.style),
        ("out", out),
        ("folder", folder),
    ];
    let argument = |template: &String| match template.as_str() {
        "{style}" => question.style.split_whitespace().map(String::from).collect(),
        template => vec![fill(template, &values)],
    };
    config.run.iter().flat_map(argument).collect()
}

impl<'a> Runner<'a> {
    /// Nothing is started yet. `log` is written over by each program that is.
    pub fn new(config: &'a SpeechConfig, folder: &Path, hidden: &'a [String], log: PathBuf, halt: &'a Halt) -> Self {
        let timeout = Duration::from_secs_f64(config.timeout_seconds);
        let folder = folder.display().to_string();
        Self { config: &config.command, timeout, folder, hidden, log, halt, server: None }
    }

    /// Has `question` spoken into the file `to`.
    pub fn speak(&mut self, question: &Question<'_>, to: &Path) -> Result<(), Failure> {
        let out = to.display().to_string();
        match self.config.persistent {
            true => self.ask(question, &out)?,
            false => self.run(&arguments(self.config, question, &out, &self.folder))?,
        }
        match to.is_file() {
            true => Ok(()),
            false => Err(Failure::Again("the program wrote no file".into(), None)),
        }
    }

    fn start(&self, arguments: &[String], stdin: Stdio, stdout: Stdio) -> Result<Child, Failure> {
        let fatal = |path: &Path, e| Failure::Fatal(SynthError::io("write", path)(e));
        let log = File::create(&self.log).map_err(|e| fatal(&self.log, e))?;
        let (program, rest) =
            arguments.split_first().map_or(("", arguments), |(program, rest)| (program.as_str(), rest));
        let mut command = Command::new(program);
        self.hidden.iter().for_each(|variable| {
            command.env_remove(variable);
        });
        command.args(rest).stdin(stdin).stdout(stdout).stderr(log).spawn().map_err(|source| match source.kind() {
            // Too many processes or too little memory pass.
            ErrorKind::WouldBlock | ErrorKind::OutOfMemory => {
                Failure::Again(format!("cannot run {program}: {source}"), None)
            }
            _ => Failure::Fatal(SynthError::Program { program: program.into(), reason: source }),
        })
    }

    /// Runs a program to its end.
    fn run(&self, arguments: &[String]) -> Result<(), Failure> {
        let mut child = self.start(arguments, Stdio::null(), Stdio::null())?;
        let begun = Instant::now();
        loop {
            let ended = child.try_wait().map_err(|e| Failure::Again(format!("the program was lost: {e}"), None))?;
            if let Some(status) = ended {
                return match status.success() {
                    true => Ok(()),
                    false => Err(Failure::Again(format!("the program failed ({status}){}", self.last_words()), None)),
                };
            }
            let halted = self.halt.wait(LOOK);
            if halted.is_err() || begun.elapsed() > self.timeout {
                let _ = child.kill();
                let _ = child.wait();
                halted.map_err(Failure::Fatal)?;
                return Err(Failure::Again(
                    format!("the program ran longer than {} s", self.timeout.as_secs_f64()),
                    None,
                ));
            }
        }
    }

    /// Gives the program that stays a job, and waits for its answer. One that fails is not asked again: the next job starts another.
    fn ask(&mut self, question: &Question<'_>, out: &str) -> Result<(), Failure> {
        let mut server = match self.server.take() {
            Some(server) => server,
            None => self.serve(question)?,
        };
        let job = json!({"id": question.id, "text": question.text, "emotion": question.emotion.name(),
                         "voice": question.voice, "style": question.style, "out": out});
        let lost = |what: &str| Failure::Again(format!("{what}{}", self.last_words()), None);
        writeln!(server.jobs, "{job}")
            .and_then(|()| server.jobs.flush())
            .map_err(|_| lost("the program takes no jobs"))?;
        let begun = Instant::now();
        let line = loop {
            match server.replies.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Disconnected) => return Err(lost("the program ended")),
                Err(RecvTimeoutError::Timeout) => self.halt.check().map_err(Failure::Fatal)?,
            }
            if begun.elapsed() > self.timeout {
                return Err(lost(&format!("the program gave no answer within {} s", self.timeout.as_secs_f64())));
            }
        };
        let reply = serde_json::from_str::<Reply>(&line).ok().filter(|reply| reply.id == question.id);
        let reply = reply.ok_or_else(|| lost(&format!("the program answered `{line}`")))?;
        self.server = Some(server);
        match reply.error {
            Some(error) => Err(Failure::Again(format!("the program says: {error}"), None)),
            None => Ok(()),
        }
    }

    fn serve(&self, question: &Question<'_>) -> Result<Server, Failure> {
        let nothing = Question { id: "", text: "", voice: "", style: "", ..*question };
        let arguments = arguments(self.config, &nothing, "", &self.folder);
        let mut child = self.start(&arguments, Stdio::piped(), Stdio::piped())?;
        let (Some(jobs), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Again("the program has no standard input or output".into(), None));
        };
        let (send, replies) = channel();
        std::thread::spawn(move || {
            // Ends with the program, or with us.
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| send.send(line).is_ok())
        });
        Ok(Server { child, jobs, replies })
    }

    /// The last line it wrote to standard error.
    fn last_words(&self) -> String {
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.lines().map(str::trim).rfind(|line| !line.is_empty()).map_or_else(String::new, |line| format!(": {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::emotion::Emotion;

    #[test]
    fn arguments_are_filled_in_and_a_style_alone_is_several() {
        let run = ["tts", "-v", "zh+{voice}", "{style}", "--emotion={emotion}", "-w", "{out}", "{text}", "{folder}/x"];
        let config = CommandConfig { run: run.map(String::from).into(), ..CommandConfig::default() };
        let question = Question { id: "a-1", text: "{out} 好", emotion: Emotion::Sad, voice: "f2", style: "-s 120" };
        let wanted = ["tts", "-v", "zh+f2", "-s", "120", "--emotion=sad", "-w", "/o.wav", "{out} 好", "t/x"];
        assert_eq!(arguments(&config, &question, "/o.wav", "t"), wanted);
        let plain = arguments(&config, &Question { style: "", ..question }, "/o.wav", "t");
        assert_eq!(plain.len(), wanted.len() - 2);
    }
}
