//! Building the model a configuration describes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::json;

use super::{EChat, SpeechPath};
use crate::autograd::{Group, Params};
use crate::checkpoint::run_dir;
use crate::config::{choice, section};
use crate::model::connector::{Connector, ConnectorConfig};
use crate::model::decoder::{Architecture, ArchitectureError, Decoder, DecoderConfig};
use crate::model::emotion::EmotionBranch;
use crate::model::hubert::{EncoderConfig, Hubert, HubertConfig, HubertConfigError};
use crate::model::weights::{self, Checkpoint, Destination, Init, Loader, Manifest};

choice! {
    /// What the models compute in; masters and reductions are f32 always.
    pub enum Precision {
        /// 32-bit floats.
        F32 = "f32",
        /// bfloat16.
        Bf16 = "bf16",
    }
}

section! {
    /// The model as a whole.
    pub struct ModelConfig {
        /// Safetensors files, checkpoints or run directories (their newest checkpoint) whose tensors replace those of the same name
        /// after everything else is loaded, in order: the stage-1 run that stage 2 starts from.
        pub init: Vec<PathBuf> = Vec::new(),
        /// What activations and compute copies are held in.
        pub precision: Precision = Precision::F32,
        /// Whether the emotion branch is there (stage 2).
        pub emotion: bool = false,
        /// Seed of everything that starts at random.
        pub seed: u64 = 0,
    }
}

/// A model that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// From weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// From the decoder's `config.json`.
    #[error(transparent)]
    Decoder(#[from] ArchitectureError),
    /// From the encoder's `config.json`.
    #[error(transparent)]
    Encoder(#[from] HubertConfigError),
    /// From a training checkpoint.
    #[error("model.init: {0}")]
    Init(#[from] crate::checkpoint::Error),
    /// From the tape.
    #[error(transparent)]
    Autograd(#[from] crate::autograd::Error),
    /// Settings that do not go together.
    #[error("{0}")]
    Settings(String),
}

/// The sections of a configuration that describe the model.
pub struct Sections<'a> {
    /// `[model]`.
    pub model: &'a ModelConfig,
    /// `[encoder]`; without it the decoder is trained from text.
    pub encoder: Option<&'a EncoderConfig>,
    /// `[connector]`.
    pub connector: &'a ConnectorConfig,
    /// `[decoder]`.
    pub decoder: &'a DecoderConfig,
}

/// A built model and its parameters.
pub struct Built {
    /// The model.
    pub model: EChat,
    /// All its parameters, in the order forward uses them.
    pub params: Params,
    /// The encoder's, for export.
    pub encoder: Option<Manifest>,
    /// The decoder's, for export.
    pub decoder: Manifest,
    /// What a user should know about the loading, a line each.
    pub notes: Vec<String>,
}

impl Built {
    /// Builds the model on `device` and loads or draws its weights. Those of `groups` are to train: it computes once they are laid out ([`Params::lay_out`]).
    pub fn new(sections: &Sections, groups: &BTreeSet<Group>, device: &Device) -> Result<Self, BuildError> {
        Self::build(sections, Params::training(groups), device, false)
    }

    /// The model's shapes from its `config.json` files alone: parameters that can be counted, in next to no memory.
    pub fn shapes(sections: &Sections) -> Result<Self, BuildError> {
        Self::build(sections, Params::frozen(), &Device::Cpu, true)
    }

    fn build(sections: &Sections, params: Params, device: &Device, shapes: bool) -> Result<Self, BuildError> {
        let dtype = match sections.model.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let (device, seed) = (device.clone(), sections.model.seed);
        let mut build = Builder { params, dtype, device, seed, shapes, notes: Vec::new() };
        let architecture = Architecture::read(&sections.decoder.path)?;
        let (speech, encoder) = match sections.encoder {
            Some(encoder) => {
                let (path, manifest) = build.speech(sections, encoder, architecture.hidden)?;
                (Some(path), Some(manifest))
            }
            None if sections.model.emotion => {
                return Err(BuildError::Settings("model.emotion = true needs an [encoder]".into()));
            }
            None => (None, None),
        };
        let (decoder, decoder_manifest) = build.decoder(sections.decoder, architecture)?;
        let Builder { params, mut notes, .. } = build;
        for path in sections.model.init.iter().filter(|_| !shapes) {
            notes.push(initialise(&params, path)?);
        }
        let model = EChat { speech, decoder };
        Ok(Self { model, params, encoder, decoder: decoder_manifest, notes })
    }
}

struct Builder {
    params: Params,
    dtype: DType,
    device: Device,
    seed: u64,
    /// Nothing is loaded or drawn.
    shapes: bool,
    notes: Vec<String>,
}

impl Builder {
    /// What no file holds.
    fn fresh(&mut self, prefix: &'static str, group: Group) -> Loader<'_> {
        let to = self.to(prefix, group);
        if self.shapes { Loader::shapes(&mut self.params, to) } else { Loader::random(self.seed, &mut self.params, to) }
    }

    fn to(&self, prefix: &'static str, group: Group) -> Destination {
        Destination { prefix, group, dtype: self.dtype, device: self.device.clone() }
    }

    fn speech(
        &mut self,
        sections: &Sections,
        config: &EncoderConfig,
        d_llm: usize,
    ) -> Result<(SpeechPath, Manifest), BuildError> {
        let hubert_config = HubertConfig::read(config)?;
        let (d, layers) = (hubert_config.hidden_size, hubert_config.summed_layers());
        let (encoder, loaded) = if config.random_init || self.shapes {
            Hubert::load(self.fresh("encoder", Group::Encoder), hubert_config)?
        } else {
            let to = self.to("encoder", Group::Encoder);
            let file = Checkpoint::open(&config.path)?;
            Hubert::load(Loader::from_checkpoint(file, &weights::HUBERT, &mut self.params, to), hubert_config)?
        };
        self.notes.extend(loaded.report.warning(&config.path));
        let speech_layer_weights = self.layer_weights("speech_layer_weights", Group::Encoder, layers)?;
        let connector = Connector::build(&self.fresh("connector", Group::Connector), sections.connector, d, d_llm)?;
        let emotion = if sections.model.emotion {
            let weights = self.layer_weights("emotion_layer_weights", Group::Emotion, layers)?;
            let branch = EmotionBranch::build(&self.fresh("emotion", Group::Emotion), d, d_llm)?;
            Some((weights, branch))
        } else {
            None
        };
        Ok((SpeechPath { encoder, speech_layer_weights, connector, emotion }, loaded.manifest))
    }

    /// Softmax weights begin equal: raw scalars at zero. They stay f32.
    fn layer_weights(&mut self, name: &str, group: Group, layers: usize) -> Result<crate::autograd::Param, BuildError> {
        let zeros = Init::ZEROS.draw(0, name, layers);
        let tensor =
            candle_core::Tensor::from_vec(zeros, layers, &self.device).map_err(crate::autograd::Error::from)?;
        Ok(self.params.register(name, group, tensor, DType::F32)?)
    }

    fn decoder(
        &mut self,
        config: &DecoderConfig,
        architecture: Architecture,
    ) -> Result<(Decoder, Manifest), BuildError> {
        let loader = if config.random_init || self.shapes {
            self.fresh("decoder", Group::Decoder)
        } else {
            let to = self.to("decoder", Group::Decoder);
            let file = Checkpoint::open(&config.path)?;
            Loader::from_checkpoint(file, &weights::DECODER, &mut self.params, to)
        };
        let decoder = Decoder::build(&loader, architecture, config.recompute)?;
        let loaded = loader.finish()?;
        self.notes.extend(loaded.report.warning(&config.path));
        Ok((decoder, loaded.manifest))
    }
}

/// Loads `path` (a safetensors file, a checkpoint, or a run directory for its newest one) by parameter names.
fn initialise(params: &Params, path: &Path) -> Result<String, BuildError> {
    let path = if path.is_dir() { run_dir::find(path)?.0 } else { path.to_owned() };
    let (count, report) = weights::load_by_name(params, &Checkpoint::open(&path)?)?;
    let unused = report.unused.len();
    let rest = if unused > 0 { format!("; {unused} tensors of it are not in this model") } else { String::new() };
    Ok(format!("model.init: {count} parameters from {}{rest}", path.display()))
}

/// The sizes of a model's groups, for people and for logs.
pub fn sizes(params: &Params) -> serde_json::Value {
    let of = |group| params.elements(group);
    json!({
        "encoder": of(Group::Encoder) + of(Group::EncoderFrontend),
        "connector": of(Group::Connector),
        "emotion": of(Group::Emotion),
        "decoder": of(Group::Decoder),
    })
}
