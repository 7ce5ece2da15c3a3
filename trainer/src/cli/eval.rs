//! `echat eval`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use echat_launch::World;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::print;
use super::trained::{Trained, TrainedArgs};
use crate::data::{Corpus, Emotion, Target};
use crate::dist::{self, Collective};
use crate::eval::{Counts, Pairs, Report, answer};
use crate::metrics::Work;
use crate::model::echat::argmax;
use crate::model::generate::Sampling;
use crate::train::{Tally, Validation, set_threads};

/// Measures a checkpoint on held-out data: CER or BLEU, losses, emotion accuracy; under mpirun over all ranks
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// Manifests or prepared directories; default: data.valid of the configuration
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Writes the figures and the counts behind them as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes reference and answer of every utterance as JSON lines
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Utterances 2k and 2k + 1 of the data are the same words in two emotions: also counts the pairs with two fitting answers
    #[arg(long)]
    pairs: bool,
    /// Longest answer in tokens
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_new_tokens: usize,
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let world = World::from_env()?;
    let (config, checkpoint) = args.trained.config()?;
    set_threads(config.output.threads, &world)?;
    let dist = config.dist.clone();
    dist::run(world, &dist, |collective| {
        let trained = Trained::load(config, &checkpoint, collective.world())?;
        evaluate(args, trained, collective)
    })
}

fn evaluate(args: &EvalArgs, trained: Trained, collective: &mut dyn Collective) -> anyhow::Result<()> {
    super::say_truncated_shards(collective.world())?;
    let paths = if args.data.is_empty() { &trained.config.data.valid } else { &args.data };
    anyhow::ensure!(!paths.is_empty(), "nothing to evaluate on: give --data (the configuration has no data.valid)");
    let data = &trained.config.data;
    let corpus = Corpus::open_for(paths, data, collective)?;
    let normalizes = trained.model.normalizes();
    let validation = Validation::new(corpus, collective, data.micro_batch(), normalizes);
    let (counts, answers) = measure(args, &trained, &validation, collective)?;
    let mut counts = gather(&counts, collective)?;
    let answers = gather_answers(&answers, collective)?;
    if collective.world().rank != 0 {
        return Ok(());
    }
    if args.pairs {
        counts.pairs = Some(pairs(&answers)?);
    }
    let report = Report::new(counts);
    print(&report.table())?;
    if let Some(path) = &args.json {
        let figures = json!({"checkpoint": trained.checkpoint, "data": paths, "figures": report});
        write(path, (serde_json::to_string_pretty(&figures)? + "\n").as_bytes())?;
    }
    if let Some(path) = &args.answers {
        let lines: String = answers.iter().map(|a| format!("{}\n", a.line)).collect();
        write(path, lines.as_bytes())?;
    }
    Ok(())
}

/// This rank's counts, and its answers as JSON lines.
fn measure(
    args: &EvalArgs,
    trained: &Trained,
    validation: &Validation,
    collective: &dyn Collective,
) -> anyhow::Result<(Counts, Vec<Answered>)> {
    let (model, examples) = (&trained.model.built.model, &trained.model.examples);
    let sampling = Sampling::greedy(args.max_new_tokens);
    let (mut counts, mut lines) = (Counts::default(), Vec::new());
    let mut work = (collective.world().rank == 0).then(|| Work::new("batches", validation.len() as u64));
    for utterances in validation.batches() {
        let utterances = utterances?;
        let batch = examples.batch(&utterances)?;
        let losses = model.losses(&crate::autograd::Tape::inference(), &batch, &examples.layout)?;
        let mut tally = Tally::default();
        tally.add(&losses);
        let sums = tally.read()?;
        counts.decoder_loss += sums.decoder_loss;
        counts.tokens += sums.tokens;
        counts.emotion_loss += sums.emotion_loss;
        counts.utterances += utterances.len() as u64;
        counts.seconds += utterances.seconds();
        let answers = answer(model, &batch, &examples.layout, &sampling, &examples.stops)?;
        for (i, (reference, answer)) in examples.references(&utterances).into_iter().zip(answers).enumerate() {
            let text = examples.tokenizer.decode(&answer.tokens)?;
            match examples.target() {
                Target::Text => counts.transcript(reference, &text),
                Target::Response => counts.response(reference, &text),
            }
            let heard = answer.emotion.as_deref().map(argmax);
            if let (Some(heard), Some(truth)) = (heard, utterances.emotions[i]) {
                counts.confusion.get_or_insert_default().add(truth as usize, heard);
            }
            let line = json!({
                "id": utterances.ids[i],
                "text": utterances.texts[i],
                "reference": reference,
                "answer": text,
                "emotion": utterances.emotions[i].map(Emotion::name),
                "heard": heard.map(|class| Emotion::ALL[class].name()),
            });
            lines.push(Answered { index: utterances.indices[i], reference: reference.into(), answer: text, line });
        }
        if let Some(work) = &mut work {
            work.advance(1);
        }
    }
    if let Some(work) = work {
        work.finish();
    }
    Ok((counts, lines))
}

/// An utterance's answer, with its number in the data.
#[derive(Serialize, Deserialize)]
struct Answered {
    index: u32,
    reference: String,
    answer: String,
    line: serde_json::Value,
}

/// All ranks' answers in the order of the data.
fn gather_answers(mine: &[Answered], collective: &mut dyn Collective) -> anyhow::Result<Vec<Answered>> {
    let mut all = Vec::new();
    for part in collective.all_gather_bytes(&serde_json::to_vec(mine)?)? {
        all.extend(serde_json::from_slice::<Vec<Answered>>(&part)?);
    }
    all.sort_by_key(|a| a.index);
    Ok(all)
}

fn pairs(answers: &[Answered]) -> anyhow::Result<Pairs> {
    let mut pairs = Pairs::default();
    for pair in answers.chunks(2) {
        let [one, other] = pair else { anyhow::bail!("--pairs needs an even number of utterances") };
        let words = |a: &Answered| a.line["text"].clone();
        anyhow::ensure!(
            words(one) == words(other),
            "--pairs: {} and {} are not the same words",
            one.line["id"],
            other.line["id"]
        );
        pairs.add((&one.reference, &one.answer), (&other.reference, &other.answer));
    }
    Ok(pairs)
}

fn gather(counts: &Counts, collective: &mut dyn Collective) -> anyhow::Result<Counts> {
    let mut all = Counts::default();
    for part in collective.all_gather_bytes(&serde_json::to_vec(counts)?)? {
        all.merge(&serde_json::from_slice(&part)?);
    }
    Ok(all)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    File::create(path).and_then(|mut f| f.write_all(bytes)).with_context(|| format!("cannot write {}", path.display()))
}
