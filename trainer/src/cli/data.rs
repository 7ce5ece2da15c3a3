//! `echat data`: looking into shards, and dividing them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};

use crate::data::audio::SAMPLE_RATE;
use crate::data::emotion::Emotion;
use crate::data::prepare::PrepareOptions;
use crate::data::sampler::placement::place;
use crate::data::shard::{INDEX_FILE, Index, LENGTHS_FILE};
use crate::data::shards::{self, Shards, Sizes};
use crate::data::{stats, wav};
use crate::metrics::Work;

/// Verifies, counts, shows, divides and distributes shards
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Reads every byte and compares it with its checksum, on all cores
    Verify(Paths),
    /// Entries and hours by emotion, speakers, lengths
    Stats(StatsArgs),
    /// Prints one utterance, and writes its recording
    Show(ShowArgs),
    /// Divides shards at random, each emotion in proportion
    Split(SplitArgs),
    /// Assigns the shards of a directory to nodes, for corpora that lie on the nodes' own disks
    Place(PlaceArgs),
}

#[derive(Debug, Args)]
struct Paths {
    /// Directories made by `echat prepare`, or shards
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct StatsArgs {
    #[command(flatten)]
    paths: Paths,
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The utterance's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    paths: Paths,
    /// Where to write its recording, as wav
    #[arg(long, value_name = "FILE")]
    wav: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SplitArgs {
    #[command(flatten)]
    paths: Paths,
    /// A directory; each part becomes a directory in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Utterances of each part, as train=143000,valid=12000,test=23000; what is left over goes nowhere
    #[arg(
        long,
        value_name = "PART=N,…",
        value_delimiter = ',',
        required_unless_present = "shares",
        conflicts_with = "shares"
    )]
    counts: Vec<String>,
    /// Share of each part, as train=0.8,valid=0.1,test=0.1
    #[arg(long, value_name = "PART=X,…", value_delimiter = ',')]
    shares: Vec<String>,
    /// Which utterances go where
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Size of a shard, at most
    #[arg(long, value_name = "MIB", default_value_t = PrepareOptions::default().shard_bytes >> 20, value_parser = super::prepare::shard_mib)]
    shard_mib: usize,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// A directory made by `echat prepare`
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// How many nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Where to write the lists node-00000.txt, …; a new or empty directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs `echat data`.
pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Verify(args) => verify(args),
        DataCommand::Stats(args) => statistics(args),
        DataCommand::Show(args) => show(args),
        DataCommand::Split(args) => split(args),
        DataCommand::Place(args) => place_shards(args),
    }
}

fn verify(args: &Paths) -> anyhow::Result<()> {
    let work = std::sync::Mutex::new(Work::new("shards", shards::count(&args.paths) as u64));
    let verified = shards::verify(&args.paths, &|_| {
        if let Ok(mut work) = work.lock() {
            work.advance(1);
        }
    });
    if let Ok(work) = work.into_inner() {
        work.finish();
    }
    let (mut bytes, mut bad, mut lines) = (0, 0, String::new());
    for shard in &verified {
        match &shard.result {
            Ok(read) => bytes += read,
            Err(e) => {
                bad += 1;
                lines += &format!("{e}\n");
            }
        }
    }
    super::print(&lines)?;
    ensure!(bad == 0, "{bad} of {} shards are damaged; they are named above", verified.len());
    super::print(&format!("{} shards, {:.2} GB: as they were written\n", verified.len(), bytes as f64 / 1e9))?;
    Ok(())
}

fn statistics(args: &StatsArgs) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    for path in &args.paths.paths {
        let opened = Shards::open(std::slice::from_ref(path))?;
        let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        parts.push((name, opened.stats()?, opened.seconds()));
    }
    let mut text = stats::table(parts.iter().map(|(name, stats, _)| (name.as_str(), stats)));
    for (name, _, seconds) in &parts {
        let last = seconds.len().saturating_sub(1) as f64;
        let at = |share: f64| seconds.get((last * share).round() as usize).copied();
        if let (Some(least), Some(median), Some(long), Some(most)) = (at(0.0), at(0.5), at(0.95), at(1.0)) {
            text +=
                &format!("{name:<14} {least:.2} s to {most:.2} s, half up to {median:.2} s, 95 % up to {long:.2} s\n");
        }
    }
    if let Some(path) = &args.json {
        let figures: serde_json::Map<String, serde_json::Value> = parts
            .iter()
            .map(|(name, stats, _)| Ok((name.clone(), serde_json::to_value(stats)?)))
            .collect::<anyhow::Result<_>>()?;
        let json = serde_json::to_string_pretty(&figures)? + "\n";
        fs::write(path, json).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(super::print(&text)?)
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let opened = Shards::open(&args.paths.paths)?;
    let Some((shard, number, utterance)) = opened.find(&args.id)? else {
        bail!("no utterance `{}` among the {} of {}", args.id, opened.len(), said(&args.paths.paths));
    };
    let seconds = utterance.audio.len() as f64 / f64::from(SAMPLE_RATE);
    let mut lines = vec![("shard", shard.path().display().to_string()), ("number", number.to_string())];
    lines.push(("id", utterance.id.into()));
    lines.push(("seconds", format!("{seconds:.3}")));
    lines.push(("text", utterance.text.into()));
    let optional = [
        ("response", utterance.response),
        ("emotion", utterance.emotion.map(Emotion::name)),
        ("speaker", utterance.speaker),
        ("context", utterance.context),
    ];
    lines.extend(optional.into_iter().filter_map(|(key, value)| Some((key, value?.into()))));
    if let Some(path) = &args.wav {
        ensure!(!utterance.is_text_only(), "`{}` is a text-only utterance: it has no recording", args.id);
        wav::write(path, &utterance.audio).with_context(|| format!("{}: cannot be written", path.display()))?;
        lines.push(("written", path.display().to_string()));
    }
    let text: String = lines.into_iter().map(|(key, value)| format!("{key:<9} {value}\n")).collect();
    Ok(super::print(&text)?)
}

fn said(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn split(args: &SplitArgs) -> anyhow::Result<()> {
    let (names, sizes) = match args.counts.is_empty() {
        false => named(&args.counts).map(|(names, counts)| (names, Sizes::Counts(counts))),
        true => named(&args.shares).map(|(names, shares)| (names, Sizes::Shares(shares))),
    }?;
    let opened = Shards::open(&args.paths.paths)?;
    let parts = opened.divide(&args.out, &names, &sizes, args.seed, args.shard_mib << 20)?;
    let table = stats::table(names.iter().zip(&parts).map(|(name, (_, stats))| (name.as_str(), stats)));
    Ok(super::print(&table)?)
}

/// Parts `NAME=NUMBER`.
fn named<T: std::str::FromStr>(parts: &[String]) -> anyhow::Result<(Vec<String>, Vec<T>)> {
    let mut names: Vec<String> = Vec::new();
    let mut numbers = Vec::new();
    for part in parts {
        let (name, number) = part.split_once('=').with_context(|| format!("`{part}`: expected PART=NUMBER"))?;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
        ensure!(plain, "`{part}`: a part's name is a directory's: letters, digits, _ and -");
        ensure!(!names.iter().any(|n| n == name), "the part `{name}` comes twice");
        let Ok(number) = number.parse() else { bail!("`{part}`: `{number}` is no number that fits") };
        names.push(name.into());
        numbers.push(number);
    }
    Ok((names, numbers))
}

fn place_shards(args: &PlaceArgs) -> anyhow::Result<()> {
    let index = Index::read(&args.dir)?;
    let shards = &index.shards;
    let (nodes, count) = (args.nodes, shards.len());
    ensure!(
        count >= nodes as usize,
        "{}: {count} shards are too few for {nodes} nodes; prepare with smaller --shard-mib",
        args.dir.display()
    );
    let sizes: Vec<u64> = shards.iter().map(|s| s.samples).collect();
    let holders = vec![(0..nodes).collect::<Vec<u32>>(); count];
    let Ok(placed) = place(&sizes, &holders) else { bail!("{}: no node for a shard", args.dir.display()) };
    let unwritable = || format!("{}: cannot be written", args.out.display());
    fs::create_dir_all(&args.out).with_context(unwritable)?;
    ensure!(fs::read_dir(&args.out).with_context(unwritable)?.next().is_none(), "{}: not empty", args.out.display());
    let mut hours = Vec::new();
    for node in 0..nodes {
        let mine = || shards.iter().zip(&placed).filter(|(_, on)| **on == node).map(|(shard, _)| shard);
        // What every node needs besides its shards: the index, and the lengths of all utterances.
        let files = mine().map(|s| s.file.as_str()).chain([INDEX_FILE, LENGTHS_FILE]);
        let list: String = files.map(|file| format!("{file}\n")).collect();
        fs::write(list_path(&args.out, node), list).with_context(unwritable)?;
        hours.push(mine().map(|s| s.samples).sum::<u64>() as f64 / f64::from(SAMPLE_RATE) / 3600.0);
    }
    let (least, most) = hours.iter().fold((f64::INFINITY, 0.0f64), |(l, m), &h| (l.min(h), m.max(h)));
    super::print(&format!(
        "{count} shards on {nodes} nodes, {least:.2} h to {most:.2} h each; copy to each node what its list names, as by\n  rsync --files-from={} {}/ NODE:DIR/\nand train with data.placement = \"node_local\"\n",
        list_path(&args.out, 0).display(),
        args.dir.display()
    ))?;
    Ok(())
}

fn list_path(out: &Path, node: u32) -> PathBuf {
    out.join(format!("node-{node:05}.txt"))
}
