//! A pre-norm Transformer layer, as the connectors use it.

use super::{ConnectorConfig, NORM_EPS};
use crate::autograd::{Result, Tape, Var};
use crate::model::weights::{self, Loader};
use crate::nn::{self, Activation, AttentionArgs, Dropout, LayerNorm, Linear, Packed, SeqLens};

/// Multi-head attention without masks: queries from one packed sequence, keys and values from another.
pub(super) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: usize,
}

impl Attention {
    pub fn build(loader: &Loader, width: usize, d_keys: usize, heads: usize) -> weights::Result<Self> {
        Ok(Self {
            q_proj: loader.dense("q_proj", width, width)?,
            k_proj: loader.dense("k_proj", d_keys, width)?,
            v_proj: loader.dense("v_proj", d_keys, width)?,
            o_proj: loader.dense("o_proj", width, width)?,
            heads,
        })
    }

    /// x `[tq, width]`, memory `[tk, d_keys]` → `[tq, width]`.
    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed, memory: &Var, keys: &SeqLens) -> Result<Var> {
        let width = x.dims()[1];
        let head_dim = width / self.heads;
        let heads = |linear: &Linear, x: &Var| {
            let y = linear.forward(tape, x)?;
            nn::reshape(tape, &y, &[x.dims()[0], self.heads, head_dim])
        };
        let (q, k, v) = (heads(&self.q_proj, x)?, heads(&self.k_proj, memory)?, heads(&self.v_proj, memory)?);
        let args = AttentionArgs {
            queries: packed,
            keys,
            causal: false,
            scale: (head_dim as f32).sqrt().recip(),
            dropout: None,
        };
        let y = nn::attention(tape, &q, &k, &v, &args)?;
        self.o_proj.forward(tape, &nn::reshape(tape, &y, &[x.dims()[0], width])?)
    }
}

/// `x + dropout(fc2(dropout(act(fc1(norm(x))))))`.
pub(super) struct FeedForward {
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    inner_dropout: Dropout,
    dropout: Dropout,
}

impl FeedForward {
    pub fn build(loader: &Loader, config: &ConnectorConfig) -> weights::Result<Self> {
        Ok(Self {
            norm: loader.layer_norm("ffn_norm", config.width, NORM_EPS)?,
            fc1: loader.dense("fc1", config.width, config.ffn)?,
            fc2: loader.dense("fc2", config.ffn, config.width)?,
            activation: config.activation.kernel(),
            inner_dropout: Dropout::new(config.dropout, &loader.registered("fc1.dropout")),
            dropout: Dropout::new(config.dropout, &loader.registered("fc2.dropout")),
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<Var> {
        let h = self.norm.forward(tape, x)?;
        let h = self.fc1.forward_activated(tape, &h, self.activation)?;
        let h = self.inner_dropout.forward(tape, &h, packed)?;
        self.dropout.add(tape, x, &self.fc2.forward(tape, &h)?, packed)
    }
}

/// Self-attention and feed-forward, each normalised first and added to what came in.
pub(super) struct Layer {
    attn_norm: LayerNorm,
    attention: Attention,
    dropout: Dropout,
    feed_forward: FeedForward,
}

impl Layer {
    pub fn build(loader: &Loader, config: &ConnectorConfig) -> weights::Result<Self> {
        Ok(Self {
            attn_norm: loader.layer_norm("attn_norm", config.width, NORM_EPS)?,
            attention: Attention::build(loader, config.width, config.width, config.heads)?,
            dropout: Dropout::new(config.dropout, &loader.registered("attn.dropout")),
            feed_forward: FeedForward::build(loader, config)?,
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<Var> {
        let h = self.attn_norm.forward(tape, x)?;
        let h = self.attention.forward(tape, &h, packed, &h, &packed.seq)?;
        let x = self.dropout.add(tape, x, &h, packed)?;
        self.feed_forward.forward(tape, &x, packed)
    }
}
