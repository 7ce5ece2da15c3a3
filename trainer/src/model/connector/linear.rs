//! Stacked frames through two linear layers (SLAM-LLM's linear projector).

use super::ConnectorConfig;
use crate::autograd::{Result, Tape, Var};
use crate::model::weights::{self, Loader};
use crate::nn::{self, Activation, Linear, Packed};

pub struct TwoLinear {
    k: usize,
    stack: Linear,
    proj: Linear,
    activation: Activation,
}

impl TwoLinear {
    pub fn build(loader: &Loader, config: &ConnectorConfig, d: usize, d_llm: usize) -> weights::Result<Self> {
        Ok(Self {
            k: config.stack,
            stack: loader.dense("stack", config.stack * d, config.width)?,
            proj: loader.dense("proj", config.width, d_llm)?,
            activation: config.activation.kernel(),
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<(Var, Packed)> {
        let (x, seq) = nn::stack_frames(tape, x, &packed.seq, self.k)?;
        let x = self.stack.forward_activated(tape, &x, self.activation)?;
        Ok((self.proj.forward(tape, &x)?, packed.with_seq(seq)))
    }
}
