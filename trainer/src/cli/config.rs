//! `echat config`: shows a configuration as it would run, or documents every key.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{Overrides, print};
use crate::config::{RunConfig, describe_markdown, load};
use crate::data::synth::config::SynthConfig;

/// What a configuration is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Training, evaluation, conversation
    Train,
    /// `echat synth`
    Synth,
}

/// Shows a configuration with defaults filled in, or documents every key
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The TOML file to check and show
    #[arg(value_name = "CONFIG", required_unless_present = "describe")]
    path: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Prints every section and key as Markdown instead
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "train", conflicts_with_all = ["path", "sets"])]
    describe: Option<Kind>,
}

pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let text = match (&args.path, args.describe) {
        (Some(path), _) => load::<RunConfig>(path, &args.overrides.sets)?.resolved_toml()?,
        (None, Some(Kind::Synth)) => describe_markdown::<SynthConfig>(),
        (None, _) => describe_markdown::<RunConfig>(),
    };
    print(&text).context("cannot write to standard output")
}
