//! `echat mini`: the miniature's texts, its voices, and how they sound.

use super::ConfigFile;
use crate::data::emotion::Emotion;
use crate::data::mini::config::MiniConfig;
use crate::data::mini::sound;
use crate::data::mini::speak::{Job, JobLine, Voices};
use crate::data::mini::{Entry, Report, write_texts};
use crate::data::wav;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// The miniature's texts and voices, of which `echat synth` makes its corpus.
#[derive(Args, Debug)]
pub(crate) struct MiniArgs {
    #[command(subcommand)]
    command: MiniCommand,
}

#[derive(Subcommand, Debug)]
enum MiniCommand {
    /// Writes emotion-labelled texts with responses, text for a decoder and a tokenizer
    Texts(TextsArgs),
    /// Speaks one text, or jobs from standard input, with recorded syllables or espeak-ng
    Speak(SpeakArgs),
    /// Measures how each emotion of a manifest sounds
    Sounds {
        /// The manifest
        #[arg(value_name = "MANIFEST.jsonl")]
        manifest: PathBuf,
    },
}

#[derive(Args, Debug)]
struct TextsArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A new directory for texts and tokenizer
    out: PathBuf,
    /// Print this many lines of each part
    #[arg(long, default_value_t = 0)]
    show: usize,
}

#[derive(Args, Debug)]
struct SpeakArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Read jobs {"id", "text", "emotion", "voice", "out"} from standard input, one a line; answer {"id", "error"} to each
    #[arg(long, conflicts_with_all = ["id", "text", "emotion", "voice", "out"])]
    jobs: bool,
    /// Makes this rendition differ from others of the same text
    #[arg(long, required_unless_present = "jobs")]
    id: Option<String>,
    /// Chinese characters, or pinyin syllables with spaces between
    #[arg(long, required_unless_present = "jobs")]
    text: Option<String>,
    /// cheerful, fearful, angry, sad or neutral
    #[arg(long, required_unless_present = "jobs")]
    emotion: Option<String>,
    /// The name of a voice of the configuration
    #[arg(long, required_unless_present = "jobs")]
    voice: Option<String>,
    /// The recording to write: WAV, 16 kHz, mono
    #[arg(long, required_unless_present = "jobs")]
    out: Option<PathBuf>,
}

/// Runs `echat mini`.
pub(crate) fn run(args: MiniArgs) -> Result<()> {
    match args.command {
        MiniCommand::Texts(args) => texts(&args),
        MiniCommand::Speak(args) => speak(args),
        MiniCommand::Sounds { manifest } => sounds(&manifest),
    }
}

fn texts(args: &TextsArgs) -> Result<()> {
    let config = MiniConfig::load(&args.config.path, &args.config.overrides.sets)?;
    let report = write_texts(&config, &args.out)?;
    super::print(&table(&report, args.show))?;
    Ok(())
}

fn speak(args: SpeakArgs) -> Result<()> {
    let config = MiniConfig::load(&args.config.path, &args.config.overrides.sets)?;
    let mut voices = Voices::new(&config)?;
    let (Some(id), Some(text), Some(emotion), Some(voice), Some(out)) =
        (args.id, args.text, args.emotion, args.voice, args.out)
    else {
        return answer_jobs(&mut voices);
    };
    say(&mut voices, JobLine { id, text, emotion, voice, out })
}

/// Speaks every job of standard input until it ends.
fn answer_jobs(voices: &mut Voices<'_>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read jobs from standard input")?;
        let job: JobLine = serde_json::from_str(&line).with_context(|| format!("not a job: {line}"))?;
        let id = job.id.clone();
        let error = say(voices, job).err().map(|error| format!("{error:#}"));
        writeln!(stdout, "{}", json!({"id": id, "error": error}))?;
        stdout.flush()?;
    }
    Ok(())
}

fn say(voices: &mut Voices<'_>, line: JobLine) -> Result<()> {
    let emotion: Emotion = line.emotion.parse()?;
    let speech = voices.say(&Job { id: line.id, text: line.text, emotion, voice: line.voice })?;
    wav::write(&line.out, &speech).with_context(|| format!("cannot write {}", line.out.display()))
}

fn sounds(manifest: &Path) -> Result<()> {
    let mut lines = vec![format!(
        "{:<10} {:>6} {:>9} {:>8} {:>9} {:>13}",
        "emotion", "s/char", "pitch Hz", "rise st", "level dB", "brightness Hz"
    )];
    lines.extend(sound::by_emotion(manifest)?.iter().map(|(emotion, s)| {
        let (name, pace, level) = (emotion.name(), s.pace, s.level_db);
        format!("{name:<10} {pace:>6.3} {:>9.0} {:>8.1} {level:>9.2} {:>13.0}", s.pitch, s.rise, s.brightness)
    }));
    super::print(&(lines.join("\n") + "\n"))?;
    Ok(())
}

fn table(report: &Report, show: usize) -> String {
    let mut lines = vec![format!("{:<12} {:>6}", "part", "texts")];
    for (part, entries) in &report.parts {
        lines.push(format!("{:<12} {:>6}", part.name(), entries.len()));
        lines.extend(entries.iter().take(show).map(describe));
    }
    let (known, unseen) = report.sentences;
    let (text, tokens) = (report.text, report.vocabulary);
    lines.push(format!("{known} known sentences, {unseen} held out; {text} lines of text; {tokens} tokens"));
    lines.join("\n") + "\n"
}

fn describe(e: &Entry) -> String {
    let response = e.response.as_deref().unwrap_or("-");
    format!("  {}  {:<9} {:<9}  {}  ->  {response}", e.id, e.voice, e.emotion, e.text)
}
