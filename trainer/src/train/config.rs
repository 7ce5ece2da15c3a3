//! `[run]`, `[train]`, `[validation]`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::autograd::Group;
use crate::config::{choice, section};

choice! {
    /// A part of the model that trains.
    pub enum TrainGroup {
        /// The encoder whole, with the speech layer weights.
        Encoder = "encoder",
        /// The encoder without its convolutional front-end, with the speech layer weights.
        EncoderTransformer = "encoder_transformer",
        /// The connector.
        Connector = "connector",
        /// The emotion branch and its layer weights.
        Emotion = "emotion",
        /// The decoder.
        Decoder = "decoder",
    }
}

impl TrainGroup {
    /// The groups of parameters it stands for.
    pub fn members(self) -> &'static [Group] {
        match self {
            Self::Encoder => &[Group::EncoderFrontend, Group::Encoder],
            Self::EncoderTransformer => &[Group::Encoder],
            Self::Connector => &[Group::Connector],
            Self::Emotion => &[Group::Emotion],
            Self::Decoder => &[Group::Decoder],
        }
    }

    /// All of a list.
    pub fn all(list: &[Self]) -> BTreeSet<Group> {
        list.iter().flat_map(|g| g.members()).copied().collect()
    }
}

section! {
    /// Where a run writes and what makes it repeatable.
    pub struct OutputConfig {
        /// The run's directory: checkpoints, metrics, TensorBoard files, the resolved configuration.
        pub dir: PathBuf,
        /// Seed of the data order, dropout and masks.
        pub seed: u64 = 0,
        /// Threads of this process; 0 takes ECHAT_THREADS, OMP_NUM_THREADS or this rank's share of the cores.
        pub threads: usize = 0,
        /// Peak TFLOP/s of one rank's device, for speed/mfu; 0 where it is not known: then it is not recorded.
        pub peak_tflops: f64 = 0.0,
    }
}

section! {
    /// What trains, and for how long.
    pub struct TrainConfig {
        /// Optimizer steps.
        pub steps: u64,
        /// The parts that train; everything else is frozen.
        pub groups: Vec<TrainGroup>,
        /// Weight of the emotion loss: (1-α)·L_decoder + α·L_emotion (paper, eq. 1).
        pub alpha: f64 = 0.0,
        /// Gradients are all-reduced in buckets of about this many MiB.
        pub bucket_mib: usize = 25,
        /// Steps between log lines and records.
        pub log_every: u64 = 10,
        /// Steps skipped for a loss or gradient that is not finite before the run gives up.
        pub max_nonfinite_steps: u64 = 10,
    }
}

section! {
    /// Loss and accuracy on held-out data while training.
    pub struct ValidationConfig {
        /// Steps between validations; 0 validates only at the end (if there is validation data).
        pub every: u64 = 0,
        /// Utterances decoded and written to TensorBoard as text at each validation.
        pub samples: usize = 3,
    }
}
