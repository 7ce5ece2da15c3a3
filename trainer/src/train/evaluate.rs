//! Loss on held-out data, over all ranks.

use std::sync::Arc;

use super::{Examples, Result, Sums};
use crate::autograd::Tape;
use crate::data::{Batch as Utterances, Corpus, assign, micro_batches};
use crate::dist::Collective;
use crate::model::echat::EChat;

/// A held-out corpus and this rank's part of it.
pub struct Validation {
    corpus: Arc<Corpus>,
    parts: Vec<Vec<u32>>,
    normalize: bool,
}

impl Validation {
    /// Cuts `corpus` over the ranks, in micro-batches of at most `seconds`.
    pub fn new(corpus: Corpus, collective: &dyn Collective, seconds: f64, normalize: bool) -> Self {
        let world = collective.world();
        let all: Vec<u32> = (0..corpus.len() as u32).collect();
        let mine = assign(&all, corpus.costs(), world.size).swap_remove(world.rank);
        let parts = micro_batches(&mine, corpus.costs(), seconds);
        Self { corpus: Arc::new(corpus), parts, normalize }
    }

    /// This rank's batches.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether this rank has none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// This rank's utterances, a packed batch at a time.
    pub fn batches(&self) -> impl Iterator<Item = Result<Utterances>> + '_ {
        self.parts.iter().map(|part| {
            let utterances: Vec<_> = part
                .iter()
                .map(|&i| Ok((i, self.corpus.get(i as usize)?)))
                .collect::<std::result::Result<_, crate::data::CorpusError>>()?;
            Ok(Utterances::pack(&utterances, self.normalize)?)
        })
    }

    /// The losses over all ranks, with nothing dropped or masked.
    pub fn losses(&self, model: &EChat, examples: &Examples, collective: &mut dyn Collective) -> Result<Sums> {
        let mut sums = Sums::default();
        for utterances in self.batches() {
            let batch = examples.batch(&utterances?)?;
            sums.add(&model.losses(&Tape::inference(), &batch, &examples.layout)?);
        }
        sums.all_reduce(collective)?;
        Ok(sums)
    }
}
