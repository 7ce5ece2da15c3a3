//! Decoder-only language models: Baichuan2, LLaMA, Qwen2, Qwen2.5, Qwen3 (the architecture follows `config.json`).

mod architecture;
mod block;
mod cache;
mod cost;

use std::path::PathBuf;
use std::rc::Rc;

pub use architecture::{Architecture, ArchitectureError};
pub use cache::KvCache;
use echat_kernels::rope::Table;

use crate::autograd::{Param, Result, Tape, Var};
use crate::config::section;
use crate::model::weights::{self, Init, Loader};
use crate::nn::{self, Packed, RmsNorm};
use block::Block;

section! {
    /// The language model.
    pub struct DecoderConfig {
        /// A Hugging Face directory: `config.json`, tokenizer, weights.
        pub path: PathBuf,
        /// Start from random weights of that `config.json`'s shape instead of the directory's.
        pub random_init: bool = false,
        /// Recompute each layer in backward instead of keeping its activations.
        pub recompute: bool = false,
    }
}

/// A causal language model over packed embeddings.
pub struct Decoder {
    /// Its sizes.
    pub architecture: Architecture,
    embed: Param,
    blocks: Vec<Rc<Block>>,
    norm: RmsNorm,
    /// The output head; `None` when it is the embedding table.
    lm_head: Option<Param>,
    /// The head's rows were normalised in place, once.
    normalised: bool,
    table: Rc<Table>,
    recompute: bool,
}

impl Decoder {
    /// Builds it from `loader`, whose scope is the root of the Hugging Face names.
    pub fn build(loader: &Loader, architecture: Architecture, recompute: bool) -> weights::Result<Self> {
        let a = &architecture;
        let model = loader.pp("model");
        let embed = model.param("embed_tokens.weight", &[a.vocab, a.hidden], Init::LINEAR)?;
        let table = Rc::new(Table::new(&a.inv_freq, a.max_positions).map_err(crate::autograd::Error::from)?);
        let blocks = (0..a.layers)
            .map(|i| Ok(Rc::new(Block::build(&model.pp("layers").pp(i), a, &table)?)))
            .collect::<weights::Result<_>>()?;
        let norm = model.rms_norm("norm", a.hidden, a.rms_eps)?;
        let lm_head = if a.tie_embeddings {
            None
        } else {
            Some(loader.param("lm_head.weight", &[a.vocab, a.hidden], Init::LINEAR)?)
        };
        Ok(Self { embed, blocks, norm, lm_head, normalised: false, table, recompute, architecture })
    }

    /// Once it is known what trains: a frozen NormHead is normalised for good.
    pub fn settle(&mut self) -> Result<()> {
        if self.architecture.norm_head
            && let Some(head) = self.lm_head.as_ref().filter(|p| p.slot().is_none())
            && !self.normalised
        {
            head.set(echat_kernels::row_normalize::forward(&head.tensor())?.0);
            self.normalised = true;
        }
        Ok(())
    }

    /// The embeddings of `ids`, `[n, hidden]`.
    pub fn embed(&self, tape: &Tape, ids: &[u32]) -> Result<Var> {
        nn::embedding(tape, &tape.param(&self.embed), ids)
    }

    /// The output head `[vocab, hidden]`: logits are `hidden headᵀ`.
    pub fn head(&self, tape: &Tape) -> Result<Var> {
        let head = tape.param(self.lm_head.as_ref().unwrap_or(&self.embed));
        if self.architecture.norm_head && !self.normalised { nn::row_normalize(tape, &head) } else { Ok(head) }
    }

    /// x `[t, hidden]` packed by `packed`, positions from 0 in each sequence → normalised hidden states `[t, hidden]`.
    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<Var> {
        let positions: Rc<[u32]> = packed.seq.lens().flat_map(|len| 0..len as u32).collect();
        let mut x = x.clone();
        for block in &self.blocks {
            x = if self.recompute {
                let (block, packed, positions) = (Rc::clone(block), packed.clone(), Rc::clone(&positions));
                let again = move |tape: &Tape, x: &[Var]| Ok(vec![block.forward(tape, &x[0], &packed, &positions)?]);
                tape.recompute(&[&x], again)?.swap_remove(0)
            } else {
                block.forward(tape, &x, packed, &positions)?
            };
        }
        self.norm.forward(tape, &x)
    }

    /// Continues each sequence of `cache` with its rows of x `[t, hidden]` (packed by `packed`); for generation.
    pub fn extend(&self, x: &Var, packed: &Packed, cache: &mut KvCache) -> Result<Var> {
        let tape = Tape::inference();
        let positions: Rc<[u32]> = cache.positions(&packed.seq).into();
        let mut x = x.clone();
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.extend(&tape, &x, packed, &positions, cache, layer)?;
        }
        cache.advance(&packed.seq);
        self.norm.forward(&tape, &x)
    }

    /// An empty cache for `count` sequences of at most `capacity` tokens each.
    pub fn cache(&self, count: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.architecture, count, capacity, &self.embed.tensor())
    }

    /// The longest sequence it can read.
    pub fn max_positions(&self) -> usize {
        self.table.max_positions()
    }
}
