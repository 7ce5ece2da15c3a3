//! `echat train`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::ConfigFile;
use crate::checkpoint::run_dir::{self, Resume, Start};
use crate::config::{RunConfig, load};
use crate::dist::{self, Collective};
use crate::files::Hold;
use crate::plan::{Assumptions, memory_line, plan};
use crate::say;
use crate::train::{Trainer, set_threads};
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
        train(&loaded.config, resolved, &args.resume, collective)
            .map_err(|error| with_plan(error, &loaded.config, ranks))
    })
}

fn train(config: &RunConfig, resolved: String, resume: &Resume, collective: &mut dyn Collective) -> anyhow::Result<()> {
    super::say_truncated_shards(collective.world())?;
    let (from, _hold) = start(config, resume, collective)?;
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

/// An error of too little memory with what the configuration was planned to take, and what to change.
fn with_plan(error: anyhow::Error, config: &RunConfig, ranks: usize) -> anyhow::Error {
    let text = format!("{error:#}");
    // Ops say the first, the driver the second.
    if !text.contains("out of memory") && !text.contains("OUT_OF_MEMORY") {
        return error;
    }
    let planned = match plan(config, &Assumptions { ranks, ..Assumptions::default() }) {
        Ok(plan) => format!("`echat plan` foretells {}", memory_line(&plan)),
        Err(error) => format!("`echat plan`: {error}"),
    };
    anyhow::anyhow!(
        "{text}; {planned}; lower data.micro_batch_seconds or data.micro_batch_tokens, or set recompute = true for the encoder, the connector and \
         the decoder"
    )
}

/// Rank 0 prepares the run directory, which is its own from then on, and says where all start from.
fn start(
    config: &RunConfig,
    resume: &Resume,
    collective: &mut dyn Collective,
) -> anyhow::Result<(Option<PathBuf>, Option<Hold>)> {
    let (mut message, mut hold) = (Vec::new(), None);
    if collective.world().rank == 0 {
        match prepare(config, resume) {
            Ok(start) => {
                message = start.from.map_or("fresh".into(), |path| format!("from {}", path.display())).into_bytes();
                hold = Some(start.hold);
            }
            Err(error) => {
                collective.broadcast_bytes(0, &mut message)?;
                return Err(error);
            }
        }
    }
    collective.broadcast_bytes(0, &mut message)?;
    let message = String::from_utf8(message).context("the run directory's name is not UTF-8")?;
    match message.strip_prefix("from ") {
        Some(path) => Ok((Some(path.into()), hold)),
        None if message == "fresh" => Ok((None, hold)),
        None => anyhow::bail!("rank 0 could not prepare {}", config.output.dir.display()),
    }
}

fn prepare(config: &RunConfig, resume: &Resume) -> anyhow::Result<Start> {
    let start = run_dir::prepare(&config.output.dir, resume)?;
    start.warnings.iter().for_each(|w| say(&format!("warning: {w}")));
    Ok(start)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_told_with_the_plan() {
        let mini = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mini/stage1.toml");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = |part: &str| format!("{part}.path={}", root.join("assets/mini").join(part).display());
        let config = load::<RunConfig>(&mini, &[path("encoder"), path("decoder")]).unwrap().config;
        let full = echat_kernels::Error::OutOfMemory { what: "[7, 9] of BF16 do not fit".into() };
        let said = with_plan(full.into(), &config, 1).to_string();
        assert!(said.starts_with("out of memory: [7, 9] of BF16 do not fit; `echat plan` foretells 0."), "{said}");
        for part in
            [" GiB (weights 0.", "activations kept for backward", "lower data.micro_batch_seconds", "recompute = true"]
        {
            assert!(said.contains(part), "{said}");
        }
        let other = with_plan(anyhow::anyhow!("no such file"), &config, 1).to_string();
        assert_eq!(other, "no such file");
    }
}
