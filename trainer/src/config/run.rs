//! The root of a training configuration.

use super::section;
use crate::checkpoint::CheckpointConfig;
use crate::data::DataConfig;
use crate::data::text::PromptConfig;
use crate::dist::DistConfig;
use crate::model::connector::ConnectorConfig;
use crate::model::decoder::DecoderConfig;
use crate::model::echat::ModelConfig;
use crate::model::generate::GenerationConfig;
use crate::model::hubert::EncoderConfig;
use crate::optim::{OptimizerConfig, Schedule};
use crate::train::{OutputConfig, TrainConfig, ValidationConfig};

section! {
    /// Every key a training configuration may have.
    pub struct RunConfig {
        /// Where the run writes.
        pub output: OutputConfig,
        /// The model as a whole.
        pub model: ModelConfig = ModelConfig::default(),
        /// The speech encoder; without this section the decoder is trained from text.
        pub encoder: Option<EncoderConfig> = None,
        /// Between encoder and decoder.
        pub connector: ConnectorConfig = ConnectorConfig::default(),
        /// The language model.
        pub decoder: DecoderConfig,
        /// What the decoder is asked.
        pub prompt: PromptConfig = PromptConfig::default(),
        /// What is trained on.
        pub data: DataConfig = DataConfig::default(),
        /// What trains, and for how long.
        pub train: TrainConfig,
        /// How parameters are updated.
        pub optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// The learning rate's course.
        pub schedule: Schedule = Schedule::default(),
        /// Held-out loss while training.
        pub validation: ValidationConfig = ValidationConfig::default(),
        /// When checkpoints are saved.
        pub checkpoint: CheckpointConfig = CheckpointConfig::default(),
        /// How responses are generated.
        pub generation: GenerationConfig = GenerationConfig::default(),
        /// How ranks work together.
        pub dist: DistConfig = DistConfig::default(),
    }
}
