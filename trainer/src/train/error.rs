//! What ends a run.

/// An error of any part training is made of.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Building or differentiating the model.
    #[error(transparent)]
    Autograd(#[from] crate::autograd::Error),
    /// Between ranks.
    #[error(transparent)]
    Dist(#[from] crate::dist::Error),
    /// Building the model.
    #[error(transparent)]
    Build(#[from] crate::model::echat::BuildError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] crate::model::weights::Error),
    /// Tokenizer and prompt.
    #[error(transparent)]
    Text(#[from] crate::data::text::TextError),
    /// The corpus.
    #[error(transparent)]
    Corpus(#[from] crate::data::CorpusError),
    /// The cache of features.
    #[error(transparent)]
    Cache(#[from] crate::data::features::CacheError),
    /// The loader.
    #[error(transparent)]
    Loader(#[from] crate::data::LoaderError),
    /// The optimizer.
    #[error(transparent)]
    Optim(#[from] crate::optim::Error),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] crate::metrics::MetricsError),
    /// Generation settings.
    #[error(transparent)]
    Sampling(#[from] crate::model::generate::SamplingError),
    /// Settings, data and model that do not go together.
    #[error("{0}")]
    Setting(String),
    /// Steps that could not be taken.
    #[error(
        "step {step}: the loss or gradient was not finite for the {count}th time (loss {loss}, gradient norm {norm}); no rank has \
         stepped; lower optimizer.lr, lengthen schedule.warmup_steps, or look at the data of that step (more are allowed by \
         train.max_nonfinite_steps)"
    )]
    NonFinite {
        /// The step.
        step: u64,
        /// How many such steps there were.
        count: u64,
        /// The loss.
        loss: f64,
        /// The gradient's norm.
        norm: f64,
    },
}

impl From<echat_kernels::Error> for Error {
    fn from(error: echat_kernels::Error) -> Self {
        Self::Autograd(error.into())
    }
}

/// The result of training.
pub type Result<T> = std::result::Result<T, Error>;
