//! The command line: one file per subcommand. Errors go up to `main`, which prints them in one line.

mod cache;
mod chat;
mod config;
mod data;
mod eval;
mod export;
mod gpu_check;
mod mini;
mod plan;
mod prepare;
mod synth;
mod train;
mod trained;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use echat_kernels::simd::SimdLevel;
use echat_launch::World;

use crate::data::shard::say_truncated;

/// Trains speech LLMs data-parallel: encoder, layer sums, connector, frozen decoder.
#[derive(Debug, Parser)]
#[command(name = "echat", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Config(config::ConfigArgs),
    Prepare(prepare::PrepareArgs),
    Data(data::DataArgs),
    Cache(cache::CacheArgs),
    Train(train::TrainArgs),
    Eval(eval::EvalArgs),
    Chat(chat::ChatArgs),
    Export(export::ExportArgs),
    Plan(plan::PlanArgs),
    GpuCheck(gpu_check::GpuCheckArgs),
    Synth(synth::SynthArgs),
    Mini(mini::MiniArgs),
}

/// A configuration file and what overrides it.
#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The TOML file
    #[arg(value_name = "CONFIG")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

/// Keys given on the command line.
#[derive(Debug, Args)]
pub(crate) struct Overrides {
    /// Overrides one key, as TOML; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) sets: Vec<String>,
}

/// Runs one command.
///
/// # Errors
/// Whatever stopped the command, to be printed as one line (`{:#}`).
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let result = run_command(cli.command);
    // With several ranks an error gets here from before they were connected.
    if let (Err(_), Ok(world)) = (&result, World::from_env()) {
        crate::dist::speak_in_turn(&world);
    }
    result
}

fn run_command(command: Command) -> anyhow::Result<()> {
    SimdLevel::configured()?;
    match command {
        Command::Config(args) => config::run(&args),
        Command::Prepare(args) => prepare::run(args),
        Command::Data(args) => data::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Mini(args) => mini::run(args),
    }
}

/// Writes to standard output; unlike `print!` it returns the error when the reader has gone.
pub(crate) fn print(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// Has a shard that is truncated while this rank reads it end the job with a line like that of any other error. Called once the
/// ranks are connected.
pub(crate) fn say_truncated_shards(world: &World) -> anyhow::Result<()> {
    let prefix = match world.size {
        1 => "error: ".into(),
        _ => format!("rank {} on {}: ", world.rank, world.host),
    };
    say_truncated(&prefix).context("cannot install a handler for truncated shards")
}
