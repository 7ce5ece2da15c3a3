//! `echat prepare`: recordings of a manifest → feature shards.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::data::prepare::{PrepareOptions, REJECTS_FILE, prepare};
use crate::metrics::Work;

/// Decodes the recordings of a JSONL manifest once, into shards that `data.train` and `data.valid` take.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// One JSON object a line: audio_filepath, text, and optionally id, offset, duration, response, emotion, speaker
    #[arg(value_name = "MANIFEST.jsonl")]
    pub manifest: PathBuf,
    /// Where to write the shards: a new or empty directory
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Leave out recordings shorter than this
    #[arg(long, value_name = "SECONDS", default_value_t = PrepareOptions::default().min_seconds)]
    pub min_seconds: f64,
    /// Leave out recordings longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = PrepareOptions::default().max_seconds)]
    pub max_seconds: f64,
    /// Fail if more than this share of the lines has to be left out
    #[arg(long, value_name = "SHARE", default_value_t = PrepareOptions::default().max_bad_share)]
    pub max_bad_share: f64,
    /// Size of a shard, at most
    #[arg(long, value_name = "MIB", default_value_t = PrepareOptions::default().shard_bytes >> 20, value_parser = shard_mib)]
    pub shard_mib: usize,
    /// Threads; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

fn shard_mib(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(mib @ 1..=65_536) => Ok(mib),
        _ => Err("it must be a whole number from 1 to 65536".into()),
    }
}

/// Runs `echat prepare`.
///
/// # Errors
/// Whatever stopped it; what was written by then is no valid corpus.
pub fn run(args: PrepareArgs) -> anyhow::Result<()> {
    let options = PrepareOptions {
        min_seconds: args.min_seconds,
        max_seconds: args.max_seconds,
        max_bad_share: args.max_bad_share,
        shard_bytes: args.shard_mib << 20,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().context("cannot start threads")?;
    let mut work = None;
    let prepared = pool.install(|| {
        prepare(&args.manifest, &args.out, &options, |progress| {
            let work = work.get_or_insert_with(|| (Work::new("recordings", progress.total as u64), 0));
            work.0.advance((progress.done - work.1) as u64);
            work.1 = progress.done;
        })
    });
    if let Some((work, _)) = work {
        work.finish();
    }
    let prepared = prepared?;
    let (index, rejected) = (prepared.index, prepared.rejects.len());
    let hours = index.samples as f64 / 16_000.0 / 3600.0;
    let shards = index.shards.len();
    let mut line = format!("{}: {} utterances, {hours:.2} h, in {shards} shards", args.out.display(), index.utterances);
    if rejected > 0 {
        line += &format!("; {rejected} left out, listed in {}", args.out.join(REJECTS_FILE).display());
    }
    Ok(super::print(&(line + "\n"))?)
}
