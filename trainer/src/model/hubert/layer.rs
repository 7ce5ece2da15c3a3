//! A Transformer layer of HuBERT, in both norm layouts.

use super::config::HubertConfig;
use crate::autograd::{Result, Tape, Var};
use crate::model::weights::{self, Init, Loader};
use crate::nn::{self, Activation, AttentionArgs, Dropout, LayerNorm, Linear, Packed};

/// Attention and feed-forward with their norms: after each (base) or before each (`do_stable_layer_norm`).
#[derive(Debug)]
pub(super) struct Layer {
    attention: Attention,
    layer_norm: LayerNorm,
    feed_forward: FeedForward,
    final_layer_norm: LayerNorm,
    dropout: Dropout,
    norm_first: bool,
}

impl Layer {
    pub fn load(config: &HubertConfig, loader: &Loader) -> weights::Result<Self> {
        let norm = |name| loader.layer_norm(name, config.hidden_size, config.layer_norm_eps);
        let attention = || Attention::load(config, &loader.pp("attention"));
        let feed_forward = || FeedForward::load(config, &loader.pp("feed_forward"));
        let dropout = Dropout::new(config.hidden_dropout, &loader.registered("dropout"));
        // Parameters are registered in the order forward uses them: backward finishes buckets in reverse.
        Ok(if config.do_stable_layer_norm {
            let (layer_norm, attention) = (norm("layer_norm")?, attention()?);
            let (final_layer_norm, feed_forward) = (norm("final_layer_norm")?, feed_forward()?);
            Self { attention, layer_norm, feed_forward, final_layer_norm, dropout, norm_first: true }
        } else {
            let (attention, layer_norm) = (attention()?, norm("layer_norm")?);
            let (feed_forward, final_layer_norm) = (feed_forward()?, norm("final_layer_norm")?);
            Self { attention, layer_norm, feed_forward, final_layer_norm, dropout, norm_first: false }
        })
    }

    /// x `[t, d]` → `[t, d]`.
    pub fn forward(&self, tape: &Tape, x: &Var, frames: &Packed) -> Result<Var> {
        if self.norm_first {
            let branch = self.attention.forward(tape, &self.layer_norm.forward(tape, x)?, frames)?;
            let (x, normed) = self.dropout.add_norm(tape, x, &branch, frames, &self.final_layer_norm)?;
            let branch = self.feed_forward.forward(tape, &normed, frames)?;
            self.feed_forward.dropout.add(tape, &x, &branch, frames)
        } else {
            let branch = self.attention.forward(tape, x, frames)?;
            let (_, x) = self.dropout.add_norm(tape, x, &branch, frames, &self.layer_norm)?;
            let branch = self.feed_forward.forward(tape, &x, frames)?;
            let (_, y) = self.feed_forward.dropout.add_norm(tape, &x, &branch, frames, &self.final_layer_norm)?;
            Ok(y)
        }
    }
}

#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    dropout: Dropout,
}

impl Attention {
    fn load(config: &HubertConfig, loader: &Loader) -> weights::Result<Self> {
        let (d, init) = (config.hidden_size, Init::Normal { std: config.initializer_range });
        let linear = |name| loader.linear(name, d, d, true, init);
        let (q, k, v, out) = (linear("q_proj")?, linear("k_proj")?, linear("v_proj")?, linear("out_proj")?);
        let dropout = Dropout::new(config.attention_dropout, &loader.registered("dropout"));
        Ok(Self { q, k, v, out, heads: config.num_attention_heads, dropout })
    }

    fn forward(&self, tape: &Tape, x: &Var, frames: &Packed) -> Result<Var> {
        let [t, d] = [x.dims()[0], x.dims()[1]];
        let split = [t, self.heads, d / self.heads];
        let project = |linear: &Linear| nn::reshape(tape, &linear.forward(tape, x)?, &split);
        let args = AttentionArgs {
            queries: frames,
            keys: &frames.seq,
            causal: false,
            scale: 1.0 / (split[2] as f32).sqrt(),
            dropout: Some(&self.dropout),
        };
        let y = nn::attention(tape, &project(&self.q)?, &project(&self.k)?, &project(&self.v)?, &args)?;
        self.out.forward(tape, &nn::reshape(tape, &y, &[t, d])?)
    }
}

#[derive(Debug)]
struct FeedForward {
    intermediate: Linear,
    output: Linear,
    activation: Activation,
    activation_dropout: Dropout,
    /// On the output, where it joins the residual stream.
    dropout: Dropout,
}

impl FeedForward {
    fn load(config: &HubertConfig, loader: &Loader) -> weights::Result<Self> {
        let (d, inner) = (config.hidden_size, config.intermediate_size);
        let init = Init::Normal { std: config.initializer_range };
        Ok(Self {
            intermediate: loader.linear("intermediate_dense", d, inner, true, init)?,
            output: loader.linear("output_dense", inner, d, true, init)?,
            activation: config.activation(),
            activation_dropout: Dropout::new(config.activation_dropout, &loader.registered("intermediate_dropout")),
            dropout: Dropout::new(config.hidden_dropout, &loader.registered("output_dropout")),
        })
    }

    fn forward(&self, tape: &Tape, x: &Var, frames: &Packed) -> Result<Var> {
        let inner = self.intermediate.forward_activated(tape, x, self.activation)?;
        self.output.forward(tape, &self.activation_dropout.forward(tape, &inner, frames)?)
    }
}
