//! A window-level Q-Former (SALMONN): learned queries attend to each window of frames; a window gives `queries` embeddings.

use super::layer::{Attention, FeedForward};
use super::{ConnectorConfig, NORM_EPS};
use crate::autograd::{Param, Result, Tape, Var};
use crate::model::weights::{self, Init, Loader};
use crate::nn::{self, Dropout, LayerNorm, Linear, Packed, SeqLens};

struct Block {
    self_norm: LayerNorm,
    self_attention: Attention,
    cross_norm: LayerNorm,
    cross_attention: Attention,
    dropouts: [Dropout; 2],
    feed_forward: FeedForward,
}

pub struct Qformer {
    window: usize,
    count: usize,
    queries: Param,
    blocks: Vec<Block>,
    norm: LayerNorm,
    proj: Linear,
}

impl Block {
    fn build(loader: &Loader, config: &ConnectorConfig, d: usize) -> weights::Result<Self> {
        let width = config.width;
        let dropout = |name: &str| Dropout::new(config.dropout, &loader.registered(name));
        Ok(Self {
            self_norm: loader.layer_norm("self_norm", width, NORM_EPS)?,
            self_attention: Attention::build(&loader.pp("self_attn"), width, width, config.heads)?,
            cross_norm: loader.layer_norm("cross_norm", width, NORM_EPS)?,
            cross_attention: Attention::build(&loader.pp("cross_attn"), width, d, config.heads)?,
            dropouts: [dropout("self_attn.dropout"), dropout("cross_attn.dropout")],
            feed_forward: FeedForward::build(loader, config)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var, packed: &Packed, memory: &Var, windows: &SeqLens) -> Result<Var> {
        let h = self.self_norm.forward(tape, x)?;
        let h = self.self_attention.forward(tape, &h, packed, &h, &packed.seq)?;
        let x = self.dropouts[0].add(tape, x, &h, packed)?;
        let h = self.cross_norm.forward(tape, &x)?;
        let h = self.cross_attention.forward(tape, &h, packed, memory, windows)?;
        let x = self.dropouts[1].add(tape, &x, &h, packed)?;
        self.feed_forward.forward(tape, &x, packed)
    }
}

impl Qformer {
    pub fn build(loader: &Loader, config: &ConnectorConfig, d: usize, d_llm: usize) -> weights::Result<Self> {
        let queries = loader.param("queries", &[config.queries, config.width], Init::LINEAR)?;
        let blocks = (0..config.layers)
            .map(|i| Block::build(&loader.pp("layers").pp(i), config, d))
            .collect::<weights::Result<_>>()?;
        Ok(Self {
            window: config.window,
            count: config.queries,
            queries,
            blocks,
            norm: loader.layer_norm("norm", config.width, NORM_EPS)?,
            proj: loader.dense("proj", config.width, d_llm)?,
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<(Var, Packed)> {
        let per_utterance: Vec<usize> = packed.seq.lens().map(|len| len.div_ceil(self.window)).collect();
        let windows = SeqLens::from_lens(
            packed
                .seq
                .lens()
                .flat_map(|len| (0..len.div_ceil(self.window)).map(move |w| self.window.min(len - w * self.window))),
        );
        let total = windows.count();
        // A window's draws are keyed by its utterance and its place in it.
        let samples = per_utterance
            .iter()
            .zip(packed.samples.iter())
            .flat_map(|(&n, &sample)| (0..n as u64).map(move |w| echat_kernels::rng::key(sample, w)))
            .collect();
        let queries = Packed { seq: SeqLens::from_lens(vec![self.count; total]), samples };
        let index = (0..total).flat_map(|_| (0..self.count as u32).map(|q| (0, q))).collect();
        let mut h = nn::gather_rows(tape, &[&tape.param(&self.queries)], index)?;
        for block in &self.blocks {
            h = block.forward(tape, &h, &queries, x, &windows)?;
        }
        let h = self.norm.forward(tape, &h)?;
        let seq = SeqLens::from_lens(per_utterance.iter().map(|n| n * self.count));
        Ok((self.proj.forward(tape, &h)?, packed.with_seq(seq)))
    }
}
