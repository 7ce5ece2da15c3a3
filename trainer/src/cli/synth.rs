//! `echat synth`: makes the miniature's corpus.

use super::ConfigFile;
use crate::data::synth::config::SynthConfig;
use crate::data::synth::{Entry, Progress, Report, generate};
use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::time::Instant;

/// Make a corpus of spoken questions in five emotions from recorded syllables and espeak-ng.
#[derive(Args, Debug)]
pub struct SynthArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A new directory for manifests, recordings, text and tokenizer
    out: PathBuf,
    /// Print this many utterances of each part
    #[arg(long, default_value_t = 0)]
    show: usize,
}

/// Runs `echat synth`.
pub fn run(args: SynthArgs) -> Result<()> {
    let start = Instant::now();
    let config = SynthConfig::load(&args.config.path, &args.config.overrides.sets)?;
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("synth {wide_bar} {pos}/{len} utterances, {eta} left")?);
    let report = generate(&config, &args.out, &|progress| match progress {
        Progress::Planned(utterances) => bar.set_length(utterances as u64),
        Progress::Made => bar.inc(1),
    })?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    super::print(&format!("{}{} written in {seconds:.1} s\n", table(&report, args.show), args.out.display()))?;
    Ok(())
}

fn table(report: &Report, show: usize) -> String {
    let mut lines = vec![format!("{:<12} {:>10} {:>8}", "part", "utterances", "seconds")];
    for (part, entries) in &report.parts {
        let seconds: f64 = entries.iter().map(|e| e.duration).sum();
        lines.push(format!("{:<12} {:>10} {seconds:>8.0}", part.name(), entries.len()));
        lines.extend(entries.iter().take(show).map(describe));
    }
    let (known, unseen) = report.sentences;
    let (text, tokens) = (report.text, report.vocabulary);
    lines.push(format!("{known} known sentences, {unseen} held out; {text} lines of text; {tokens} tokens"));
    for (speaker, syllables) in &report.substituted {
        let list = syllables.join(" ");
        lines.push(format!("{speaker}: {} syllables in another tone than written: {list}", syllables.len()));
    }
    lines.push(format!(
        "{:<10} {:>6} {:>9} {:>8} {:>9} {:>13}",
        "emotion", "s/char", "pitch Hz", "rise st", "level dB", "brightness Hz"
    ));
    lines.extend(report.sounds.iter().map(|(emotion, s)| {
        let name = emotion.name();
        format!(
            "{name:<10} {:>6.3} {:>9.0} {:>8.1} {:>9.2} {:>13.0}",
            s.pace, s.pitch, s.rise, s.level_db, s.brightness
        )
    }));
    lines.join("\n") + "\n"
}

fn describe(e: &Entry) -> String {
    let response = e.response.as_deref().unwrap_or("-");
    format!("  {}  {:.2} s  {:<9} {:<9}  {}  ->  {response}", e.id, e.duration, e.speaker, e.emotion, e.text)
}
