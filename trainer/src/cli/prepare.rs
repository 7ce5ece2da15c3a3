//! `echat prepare`: corpora as they are published → feature shards.

use std::path::{Path, PathBuf};

use clap::Args;
use echat_launch::World;

use crate::data::prepare::text::{Case, Punctuation, Spaces, TextRules, Width};
use crate::data::prepare::{
    Example, Format, PrepareOptions, Prepared, Progress, REJECTS_FILE, Source, Survey, prepare, survey,
};
use crate::dist::{self, Collective, DistConfig};
use crate::metrics::Work;
use crate::train::set_threads;

/// Decodes corpora once, into shards that `data.train` and `data.valid` take; under mpirun over all ranks. Interrupted and run again
/// it does what is missing
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// AISHELL-1, AISHELL-2, WenetSpeech, Kaldi data directories; JSON lines (NeMo, WeNet, Hugging Face audio folders, E-chat tuples); WeNet shards
    #[arg(value_name = "SOURCE", required = true)]
    pub sources: Vec<PathBuf>,
    /// Where to write the shards: a new or empty directory, or one that an interrupted run has left
    #[arg(value_name = "OUT", required = true)]
    pub out: PathBuf,
    /// The sources' layout; found out if not given
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Only these parts: train, dev, test of AISHELL-1; L, M, S, W, DEV, TEST_NET, TEST_MEETING of WenetSpeech
    #[arg(long = "subset", value_name = "NAME", value_delimiter = ',')]
    pub subsets: Vec<String>,
    /// Before a long run: print the first N utterances, their transcripts as written and as they will be, and what there is in all; write nothing
    #[arg(long, value_name = "N")]
    pub show: Option<usize>,
    #[command(flatten)]
    pub text: TextArgs,
    /// Leave out recordings shorter than this
    #[arg(long, value_name = "SECONDS", default_value_t = PrepareOptions::default().min_seconds)]
    pub min_seconds: f64,
    /// Leave out recordings longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = PrepareOptions::default().max_seconds)]
    pub max_seconds: f64,
    /// Fail if more than this share of the utterances has to be left out
    #[arg(long, value_name = "SHARE", default_value_t = PrepareOptions::default().max_bad_share)]
    pub max_bad_share: f64,
    /// Size of a shard, at most
    #[arg(long, value_name = "MIB", default_value_t = PrepareOptions::default().shard_bytes >> 20, value_parser = shard_mib)]
    pub shard_mib: usize,
    /// Make shards again from which an earlier run had to leave something out
    #[arg(long)]
    pub retry: bool,
    /// Threads of each rank; 0 for its share of the cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

/// What is done to transcripts; each layout has its own default, that of the corpus's recipes.
#[derive(Debug, Args)]
pub struct TextArgs {
    /// Full-width letters, digits and spaces
    #[arg(long, value_name = "RULE")]
    pub text_width: Option<Width>,
    /// Latin letters
    #[arg(long, value_name = "RULE")]
    pub text_case: Option<Case>,
    /// Punctuation
    #[arg(long, value_name = "RULE")]
    pub text_punctuation: Option<Punctuation>,
    /// Spaces
    #[arg(long, value_name = "RULE")]
    pub text_spaces: Option<Spaces>,
}

pub(super) fn shard_mib(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(mib @ 1..=65_536) => Ok(mib),
        _ => Err("it must be a whole number from 1 to 65536".into()),
    }
}

/// Runs `echat prepare`.
///
/// # Errors
/// Whatever stopped it; what was written by then serves the next run, but is no corpus yet.
pub fn run(args: PrepareArgs) -> anyhow::Result<()> {
    let world = World::from_env()?;
    set_threads(args.threads, &world)?;
    let options = PrepareOptions {
        min_seconds: args.min_seconds,
        max_seconds: args.max_seconds,
        max_bad_share: args.max_bad_share,
        shard_bytes: args.shard_mib << 20,
        retry: args.retry,
    };
    dist::run(world, &DistConfig::default(), |collective| make(&args, &options, collective))
}

fn make(args: &PrepareArgs, options: &PrepareOptions, collective: &mut dyn Collective) -> anyhow::Result<()> {
    let leads = collective.world().rank == 0;
    let sources = args.sources.iter().map(|path| source(path, args)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(count) = args.show {
        return if leads { Ok(super::print(&shown(&sources, &survey(&sources, count)?))?) } else { Ok(()) };
    }
    let ranks = collective.world().size;
    let (mut work, mut last) = (None, 0);
    let prepared = prepare(&sources, &args.out, options, collective, &mut |progress: &Progress| {
        let what = if ranks > 1 { format!("utterances of this one of {ranks} ranks") } else { "utterances".into() };
        if leads {
            work.get_or_insert_with(|| Work::new(&what, progress.total)).advance(progress.done - last);
            last = progress.done;
        }
    })?;
    if let Some(work) = work {
        work.finish();
    }
    prepared.map_or(Ok(()), |prepared| Ok(super::print(&summary(&args.out, &prepared))?))
}

fn source(path: &Path, args: &PrepareArgs) -> anyhow::Result<Source> {
    let format = args.format.map_or_else(|| Format::detect(path), Ok)?;
    let usual = format.rules();
    let rules = TextRules {
        width: args.text.text_width.unwrap_or(usual.width),
        case: args.text.text_case.unwrap_or(usual.case),
        punctuation: args.text.text_punctuation.unwrap_or(usual.punctuation),
        spaces: args.text.text_spaces.unwrap_or(usual.spaces),
        variants: usual.variants,
    };
    Ok(Source { path: path.into(), format, subsets: args.subsets.clone(), rules })
}

fn summary(out: &Path, prepared: &Prepared) -> String {
    let (index, rejected) = (&prepared.index, prepared.rejected);
    let hours = index.samples as f64 / 16_000.0 / 3600.0;
    let shards = index.shards.len();
    let mut line = format!("{}: {} utterances, {hours:.2} h, in {shards} shards", out.display(), index.utterances);
    if rejected > 0 {
        line += &format!("; {rejected} left out, listed in {}", out.join(REJECTS_FILE).display());
    }
    if prepared.unchanged {
        line += "; an earlier run had made it all";
    }
    line + "\n"
}

fn shown(sources: &[Source], survey: &Survey) -> String {
    let mut lines = Vec::new();
    for Source { path, format, rules, .. } in sources {
        let TextRules { width, case, punctuation, spaces, .. } = rules;
        lines.push(format!(
            "{}: {format}; text: width {width}, case {case}, punctuation {punctuation}, spaces {spaces}",
            path.display()
        ));
    }
    lines.extend(survey.examples.iter().map(example));
    for reject in &survey.rejects {
        lines.push(format!("left out: {} {}: {}", reject.source, reject.id, reject.reason));
    }
    let Survey { utterances, recordings, seconds, unmeasured, untranscribed, duplicates, unusable, .. } = survey;
    let mut total = format!("{utterances} utterances in {recordings} recordings, {:.2} h", seconds / 3600.0);
    for (count, what) in [
        (unmeasured, "of a length that only decoding tells"),
        (untranscribed, "recordings without a transcript"),
        (duplicates, "with an id that came before"),
        (unusable, "that cannot be used"),
    ] {
        if *count > 0 {
            total += &format!(", {count} {what}");
        }
    }
    lines.push(total);
    lines.join("\n") + "\n"
}

fn example(Example { segment, written }: &Example) -> String {
    let mut line = format!("{}  {:.2} s", segment.id, segment.offset);
    line += &segment.duration.map_or(" to the end".into(), |d| format!(" + {d:.2} s"));
    for part in [segment.speaker.as_deref(), segment.emotion.map(|e| e.name())].into_iter().flatten() {
        line += &format!("  {part}");
    }
    line += &format!("\n    written: {written}\n    becomes: {}", segment.text);
    segment.response.iter().for_each(|response| line += &format!("\n    response: {response}"));
    line
}
