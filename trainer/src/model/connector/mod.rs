//! The connection module: encoder frames `[t, d]` to decoder embeddings `[t', d_llm]`.

mod config;
mod conv;
mod cost;
mod layer;
mod linear;
mod qformer;
mod transformer;

pub use config::{ActivationKind, ConnectorConfig, ConnectorKind};

use crate::autograd::{Result, Tape, Var};
use crate::model::weights::{self, Loader};
use crate::nn::Packed;

/// One of the architectures of [`ConnectorKind`].
pub enum Connector {
    /// The paper's.
    Transformer(transformer::Transformer),
    /// Two linear layers.
    Linear(linear::TwoLinear),
    /// Strided convolutions.
    Conv(conv::Conv),
    /// Windowed queries.
    Qformer(qformer::Qformer),
}

impl Connector {
    /// Builds it for frames of width `d_encoder` and embeddings of width `d_llm`.
    pub fn build(loader: &Loader, config: &ConnectorConfig, d_encoder: usize, d_llm: usize) -> weights::Result<Self> {
        Ok(match config.kind {
            ConnectorKind::Transformer => {
                Self::Transformer(transformer::Transformer::build(loader, config, d_encoder, d_llm)?)
            }
            ConnectorKind::Linear => Self::Linear(linear::TwoLinear::build(loader, config, d_encoder, d_llm)?),
            ConnectorKind::Conv => Self::Conv(conv::Conv::build(loader, config, d_encoder, d_llm)?),
            ConnectorKind::Qformer => Self::Qformer(qformer::Qformer::build(loader, config, d_encoder, d_llm)?),
        })
    }

    /// x `[t, d]` packed by `packed` → `[t', d_llm]` and where each utterance lies in it.
    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<(Var, Packed)> {
        match self {
            Self::Transformer(c) => c.forward(tape, x, packed),
            Self::Linear(c) => c.forward(tape, x, packed),
            Self::Conv(c) => c.forward(tape, x, packed),
            Self::Qformer(c) => c.forward(tape, x, packed),
        }
    }
}

/// PyTorch's default for layer norms.
const NORM_EPS: f64 = 1e-5;
