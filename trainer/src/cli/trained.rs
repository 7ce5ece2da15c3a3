//! A trained model from a checkpoint: what `eval`, `chat` and `export` start from.

use std::path::{Path, PathBuf};

use candle_core::Device;
use clap::Args;
use echat_launch::World;

use super::Overrides;
use crate::checkpoint::run_dir;
use crate::config::{RunConfig, load_text};
use crate::dist;
use crate::say;
use crate::train::{Model, SavedState};

/// Which model.
#[derive(Debug, Args)]
pub(crate) struct TrainedArgs {
    /// A checkpoint, or a run directory for its newest one
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

/// A model, the configuration it was trained with, and where it came from.
pub(crate) struct Trained {
    pub(crate) config: RunConfig,
    pub(crate) model: Model,
    pub(crate) checkpoint: PathBuf,
}

impl TrainedArgs {
    /// The configuration kept in the checkpoint, with the overrides.
    pub(crate) fn config(&self) -> anyhow::Result<(RunConfig, PathBuf)> {
        let (checkpoint, warnings) = run_dir::find(&self.checkpoint)?;
        warnings.iter().for_each(|w| say(&format!("warning: {w}")));
        let state = SavedState::read(&checkpoint)?;
        let label = checkpoint.join("state.json");
        let loaded = load_text::<RunConfig>(&label, &state.config, &self.overrides.sets)?;
        Ok((loaded.config, checkpoint))
    }
}

impl Trained {
    /// Builds the model `config` describes on the device of the rank `world` describes and loads `checkpoint` into it.
    pub(crate) fn load(config: RunConfig, checkpoint: &Path, world: &World) -> anyhow::Result<Self> {
        let device = dist::device(&config.dist, world)?;
        let mut trained = Self::unsettled(config, checkpoint, &device)?;
        trained.model.settle()?;
        Ok(trained)
    }

    /// The same with every weight as it was trained (for export).
    pub(crate) fn unsettled(config: RunConfig, checkpoint: &Path, device: &Device) -> anyhow::Result<Self> {
        let model = Model::frozen(&config, device)?;
        model.load(checkpoint)?;
        model.built.notes.iter().for_each(|note| say(note));
        Ok(Self { config, model, checkpoint: checkpoint.into() })
    }
}
