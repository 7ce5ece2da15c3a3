//! `echat train`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::ConfigFile;
use crate::checkpoint::run_dir::{self, Resume};
use crate::config::{RunConfig, load};
use crate::dist::{self, Collective};
use crate::plan::{Assumptions, GIB, plan};
use crate::train::{Trainer, set_threads};
use echat_kernels::{MEMORY_ADVICE, MEMORY_FULL};
use echat_launch::World;

/// Trains what a configuration describes; under mpirun with one process per rank
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Where to start: `none` (a fresh run), `auto` (the newest good checkpoint of output.dir, if any), or a checkpoint
    #[arg(long, value_name = "auto|none|PATH", default_value = "none")]
    resume: Resume,
}

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let world = World::from_env()?;
    let loaded = load::<RunConfig>(&args.config.path, &args.config.overrides.sets)?;
    let resolved = loaded.resolved_toml()?;
    set_threads(loaded.config.output.threads, &world)?;
    let dist = loaded.config.dist.clone();
    let ranks = world.size;
    dist::run(world, &dist, |collective| {
        train(&loaded.config, resolved, &args.resume, collective).map_err(|e| foretold(e, &loaded.config, ranks))
    })
}

/// `error` with what `echat plan` foretells, if it is that a GPU's memory is full.
fn foretold(error: anyhow::Error, config: &RunConfig, ranks: usize) -> anyhow::Error {
    let text = match format!("{error:#}") {
        text if text.contains(MEMORY_FULL) => text,
        // The tensor library's own words.
        text if text.contains("CUDA_ERROR_OUT_OF_MEMORY") => format!("{MEMORY_FULL} ({text}); {MEMORY_ADVICE}"),
        _ => return error,
    };
    match plan(config, &Assumptions { ranks, ..Assumptions::default() }) {
        Ok(plan) => anyhow::anyhow!(
            "{text}: for this one {:.3} GiB, in micro-batches of {:.1} s of speech",
            plan.memory.total() / GIB,
            plan.micro_batch.seconds
        ),
        Err(_) => error,
    }
}

fn train(config: &RunConfig, resolved: String, resume: &Resume, collective: &mut dyn Collective) -> anyhow::Result<()> {
    super::say_truncated_shards(collective.world())?;
    let from = start(config, resume, collective)?;
    let is_first = collective.world().rank == 0;
    let trainer = Trainer::new(config, resolved.clone(), from.as_deref(), collective)?;
    // Not before it is known to fit what is there.
    if is_first {
        let file = config.output.dir.join("config.toml");
        std::fs::write(&file, resolved).with_context(|| format!("cannot write {}", file.display()))?;
    }
    trainer.run()?;
    Ok(())
}

/// Rank 0 prepares the run directory and says where all start from.
fn start(config: &RunConfig, resume: &Resume, collective: &mut dyn Collective) -> anyhow::Result<Option<PathBuf>> {
    let mut message = Vec::new();
    if collective.world().rank == 0 {
        let prepared = prepare(config, resume);
        message = match &prepared {
            Ok(Some(path)) => format!("from {}", path.display()).into_bytes(),
            Ok(None) => b"fresh".to_vec(),
            Err(_) => Vec::new(),
        };
        if let Err(error) = prepared {
            collective.broadcast_bytes(0, &mut message)?;
            return Err(error);
        }
    }
    collective.broadcast_bytes(0, &mut message)?;
    let message = String::from_utf8(message).context("the run directory's name is not UTF-8")?;
    match message.strip_prefix("from ") {
        Some(path) => Ok(Some(path.into())),
        None if message == "fresh" => Ok(None),
        None => anyhow::bail!("rank 0 could not prepare {}", config.output.dir.display()),
    }
}

fn prepare(config: &RunConfig, resume: &Resume) -> anyhow::Result<Option<PathBuf>> {
    let dir = &config.output.dir;
    let start = run_dir::prepare(dir, resume)?;
    for warning in &start.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(start.from)
}
