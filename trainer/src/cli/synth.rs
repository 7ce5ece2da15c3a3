//! `echat synth`: builds a corpus of spoken questions with responses.

use super::ConfigFile;
use crate::data::emotion::Emotion;
use crate::data::stats;
use crate::data::synth::config::SynthConfig;
use crate::data::synth::cost::{Estimate, estimate};
use crate::data::synth::output::Report;
use crate::data::synth::{Outcome, Progress, build};
use crate::metrics::Work;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Builds a corpus like E-chat200: responses by a chat endpoint, speech by a TTS backend, manifests, shards, statistics
#[derive(Args, Debug)]
pub(crate) struct SynthArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// A new directory, or that of a run to be continued
    out: PathBuf,
    /// Print what would be done and what it would cost; send and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on with a run that asked for something else, and make anew what that changes
    #[arg(long)]
    accept_changes: bool,
}

/// Runs `echat synth`.
pub(crate) fn run(args: &SynthArgs) -> Result<()> {
    let config = SynthConfig::load(&args.config.path, &args.config.overrides.sets)?;
    let out = args.out.display();
    if args.dry_run {
        super::print(&expected(&estimate(&config, &args.out, args.accept_changes)?))?;
        return Ok(());
    }
    let bar: Mutex<Option<Work>> = Mutex::new(None);
    let outcome = build(&config, &args.out, args.accept_changes, &|progress| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Begin { what, total } => *bar = Some(Work::new(&format!("{what}s"), total as u64)),
            Progress::Advance => bar.iter_mut().for_each(|bar| bar.advance(1)),
            Progress::End => bar.take().into_iter().for_each(Work::finish),
        }
    })?;
    super::print(&match outcome {
        Outcome::Finished => format!("{out} is finished: nothing to do\n"),
        Outcome::Built(report) => format!("{}{out} is finished\n", built(&report, &args.out)),
    })?;
    Ok(())
}

fn expected(estimate: &Estimate) -> String {
    let texts: usize = estimate.emotions.iter().sum();
    let emotions = Emotion::ALL.iter().zip(estimate.emotions).map(|(emotion, count)| format!("{emotion} {count}"));
    let parts = estimate.parts.iter().map(|(part, size)| format!("{part} {size}"));
    let ((answered, asked), (spoken, lacking), cost) = (estimate.responses, estimate.recordings, &estimate.cost);
    let (prompt, response) = (cost.prompt_tokens, cost.response_tokens);
    let lines = [
        format!("texts       {texts}: {}", emotions.collect::<Vec<_>>().join(", ")),
        format!("parts       {}", parts.collect::<Vec<_>>().join(", ")),
        format!(
            "responses   {answered} there, {asked} to ask for: about {prompt} tokens sent, {response} received, {:.2}",
            cost.responses
        ),
        format!(
            "recordings  {spoken} there, {lacking} to make: {} characters billed, {:.2}",
            cost.characters, cost.speech
        ),
        format!(
            "cost        about {:.2} by [prices]; at least {:.0} minutes by the rates allowed",
            cost.sum(),
            estimate.minutes.ceil()
        ),
        "dry run     nothing was sent or written".to_string(),
    ];
    lines.join("\n") + "\n"
}

fn built(report: &Report, out: &std::path::Path) -> String {
    let mut text = stats::table(report.parts.iter().map(|(part, stats)| (part.as_str(), stats)));
    let cost = &report.cost;
    if cost.prompt_tokens + cost.response_tokens + cost.characters > 0 {
        let (prompt, response, characters) = (cost.prompt_tokens, cost.response_tokens, cost.characters);
        text += &format!(
            "paid for {prompt} + {response} tokens and {characters} characters: {:.2} by [prices]\n",
            cost.sum()
        );
    }
    if report.rejected > 0 {
        text += &format!("{} texts left out, listed in {}\n", report.rejected, out.join("rejects.jsonl").display());
    }
    text
}
