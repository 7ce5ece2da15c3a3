//! From a configuration to a model with its data: what training, evaluation and conversation share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::Device;

use super::{Error, Examples, Result, TrainGroup};
use crate::autograd::{Buckets, Group};
use crate::config::RunConfig;
use crate::data::text::Tokenizer;
use crate::model::echat::{Built, Sections};
use crate::model::weights;

/// A built model and how text goes in and out of it.
pub struct Model {
    /// The model.
    pub built: Built,
    /// Text to tokens.
    pub examples: Examples,
    /// What trains; empty for evaluation.
    pub buckets: Buckets,
}

impl Model {
    /// Builds what `config` describes on `device`, for training.
    pub fn for_training(config: &RunConfig, device: &Device) -> Result<Self> {
        let groups = TrainGroup::all(&config.train.groups);
        let present = |group| match group {
            Group::Encoder | Group::EncoderFrontend | Group::Connector => config.encoder.is_some(),
            Group::Emotion => config.model.emotion,
            Group::Decoder => true,
        };
        if let Some(missing) = config.train.groups.iter().find(|g| !g.members().iter().all(|&m| present(m))) {
            return Err(Error::Setting(format!("train.groups has \"{missing}\", which this model does not have")));
        }
        if groups.is_empty() {
            return Err(Error::Setting("train.groups is empty: nothing would train".into()));
        }
        Self::build(config, &groups, device)
    }

    /// Builds what `config` describes on `device`, all frozen.
    pub fn frozen(config: &RunConfig, device: &Device) -> Result<Self> {
        Self::build(config, &BTreeSet::new(), device)
    }

    fn build(config: &RunConfig, groups: &BTreeSet<Group>, device: &Device) -> Result<Self> {
        let sections = Sections {
            model: &config.model,
            encoder: config.encoder.as_ref(),
            connector: &config.connector,
            decoder: &config.decoder,
        };
        let tokenizer = Tokenizer::load(&config.decoder.path)?;
        let mut built = Built::new(&sections, groups, device)?;
        let architecture = &built.model.decoder.architecture;
        if tokenizer.vocab_size() > architecture.vocab {
            return Err(Error::Setting(format!(
                "{}: the tokenizer has {} tokens, the model {}",
                config.decoder.path.display(),
                tokenizer.vocab_size(),
                architecture.vocab
            )));
        }
        let (emotion, speech) = (config.model.emotion, config.encoder.is_some());
        let examples = Examples::new(tokenizer, &config.prompt, config.data.target, architecture.eos, emotion, speech)?;
        let buckets = built.params.lay_out(config.train.bucket_mib.max(1) << 20)?;
        Ok(Self { built, examples, buckets })
    }

    /// After weights are final for this process: what is frozen may be prepared once.
    pub fn settle(&mut self) -> Result<()> {
        Ok(self.built.model.decoder.settle()?)
    }

    /// Puts a training checkpoint's parameters in place (evaluation).
    pub fn load(&self, checkpoint: &Path) -> Result<()> {
        weights::load_by_name(&self.built.params, &weights::Checkpoint::open(checkpoint)?)?;
        Ok(())
    }

    /// A fingerprint per component of what does not train.
    pub fn frozen_fingerprints(&self) -> Result<BTreeMap<String, String>> {
        let mut parts: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for param in self.built.params.iter().filter(|p| p.slot().is_none()) {
            parts.entry(param.name().split('.').next().unwrap_or_default()).or_default().push(param.clone());
        }
        parts.into_iter().map(|(name, params)| Ok((name.to_owned(), weights::fingerprint(params.iter())?))).collect()
    }

    /// Whether waveforms are normalised per utterance.
    pub fn normalizes(&self) -> bool {
        self.built.model.speech.as_ref().is_some_and(|s| s.encoder.config().do_normalize)
    }
}
