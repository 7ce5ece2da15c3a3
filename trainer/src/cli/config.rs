//! `echat config`: shows a configuration as it would run, or documents every key.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::{Serialize, de::DeserializeOwned};

use super::{Overrides, print};
use crate::config::{Describe, describe_markdown, load};

/// Shows a configuration with defaults filled in, or documents every key
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The TOML file to check and show
    #[arg(value_name = "CONFIG", required_unless_present = "describe")]
    path: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Prints every section and key as Markdown instead
    #[arg(long, conflicts_with_all = ["path", "sets"])]
    describe: bool,
}

pub(crate) fn run<T: DeserializeOwned + Serialize + Describe>(args: &ConfigArgs) -> anyhow::Result<()> {
    let text = match &args.path {
        Some(path) => load::<T>(path, &args.overrides.sets)?.resolved_toml()?,
        None => describe_markdown::<T>(),
    };
    print(&text).context("cannot write to standard output")
}
