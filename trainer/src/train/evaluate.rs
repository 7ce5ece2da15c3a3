//! Loss on held-out data, over all ranks.

use std::sync::Arc;

use super::{Examples, Result, Sums, Tally};
use crate::autograd::{self, Tape};
use crate::data::sampler::Item;
use crate::data::{Batch as Utterances, Budget, Corpus, Packing, StepPlan, micro_batches};
use crate::dist::Collective;
use crate::model::echat::EChat;

/// A held-out corpus and this rank's part of it.
pub struct Validation {
    corpus: Arc<Corpus>,
    parts: Vec<Vec<Item>>,
    normalize: bool,
}

impl Validation {
    /// Cuts `corpus` over the ranks, in micro-batches of at most `budget`.
    pub fn new(corpus: Corpus, collective: &dyn Collective, budget: Budget, normalize: bool) -> Self {
        let whole = StepPlan::whole(corpus.costs(), corpus.groups());
        let mine = whole.shares(&corpus.placement().ranks).swap_remove(collective.world().rank);
        let parts = micro_batches(&mine, budget);
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
            let mut packing = Packing::new(0, self.normalize);
            for item in part {
                packing.push(item.utterance, &self.corpus.get(item.utterance as usize)?);
            }
            Ok(packing.finish().map_err(autograd::Error::from)?)
        })
    }

    /// The losses over all ranks, with nothing dropped or masked.
    pub fn losses(&self, model: &EChat, examples: &Examples, collective: &mut dyn Collective) -> Result<Sums> {
        let mut tally = Tally::default();
        for utterances in self.batches() {
            let batch = examples.batch(&utterances?)?;
            tally.add(&model.losses(&Tape::inference(), &batch, &examples.layout)?);
        }
        let mut sums = tally.read()?;
        sums.all_reduce(collective)?;
        Ok(sums)
    }
}
