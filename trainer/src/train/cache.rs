//! The cache of features that training takes instead of recordings while the encoder is frozen.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Error, Model, Result};
use crate::autograd::Group;
use crate::config::RunConfig;
use crate::data::audio::SAMPLE_RATE;
use crate::data::features::{self, FeatureCache, Identity, PartPlan, PartWriter};
use crate::data::sampler::Item;
use crate::data::{Corpus, CorpusError, Packing, micro_batches};
use crate::dist::Collective;
use crate::metrics::Work;
use crate::model::echat::{Precision, SpeechPath};
use crate::model::weights;
use crate::nn::Packed;

/// The cache `data.cache` names, after building what of it is missing; `None` if it names none. Every rank calls it. An utterance whose
/// recording cannot be read is not in it.
pub fn open_cache(
    config: &RunConfig,
    model: &Model,
    corpus: &Corpus,
    collective: &mut dyn Collective,
) -> Result<Option<Arc<FeatureCache>>> {
    let dir = &config.data.cache;
    if dir.as_os_str().is_empty() {
        return Ok(None);
    }
    let setting = |text: &str| Err(Error::Setting(text.into()));
    let Some(speech) = &model.built.model.speech else {
        return setting("data.cache keeps what an encoder makes of speech, but the configuration has no [encoder]");
    };
    if !speech.is_frozen() {
        return setting("data.cache needs a frozen encoder, but train.groups has it among what trains");
    }
    if !config.data.speed_perturb.is_empty() {
        return setting("data.cache and data.speed_perturb do not go together: what is played faster sounds different");
    }
    let (identity, compute) = identity(config, model, speech, corpus)?;
    let placement = corpus.placement();
    let (rank, here) = (collective.world().rank, placement.here);
    let of_node: Vec<usize> = (0..placement.ranks.len()).filter(|&r| placement.ranks[r] as usize == here).collect();
    // Of all nodes: they may share the directory.
    let hold = (rank == 0).then(|| features::hold(dir)).transpose()?;
    collective.barrier()?;
    if of_node.first() == Some(&rank) {
        features::claim(dir, &identity)?;
    }
    collective.barrier()?;
    let plans = features::parts(corpus.costs(), corpus.groups());
    let mine = plans.iter().enumerate().filter(|(_, plan)| plan.node == here);
    let place = of_node.iter().position(|&r| r == rank).unwrap_or(0);
    let mine = mine.skip(place).step_by(of_node.len().max(1));
    let missing: Vec<_> = mine.filter(|(i, _)| !features::part_path(dir, *i).exists()).collect();
    let total: usize = missing.iter().map(|(_, plan)| plan.utterances.len()).sum();
    let mut work = (rank == 0 && total > 0).then(|| Work::new("utterances to encode", total as u64));
    for (part, plan) in missing {
        Maker { config, model, speech, corpus, dtype: identity.dtype() }.make(dir, part, plan)?;
        if let Some(work) = &mut work {
            work.advance(plan.utterances.len() as u64);
        }
    }
    if let Some(work) = work {
        work.finish();
    }
    collective.barrier()?;
    drop(hold);
    Ok(Some(Arc::new(FeatureCache::open(dir, &identity, &plans, here, corpus.len(), compute)?)))
}

/// Whose the cache is, and in what the model computes.
fn identity(config: &RunConfig, model: &Model, speech: &SpeechPath, corpus: &Corpus) -> Result<(Identity, DType)> {
    let of_encoder = |group| matches!(group, Group::Encoder | Group::EncoderFrontend);
    let encoder = weights::fingerprint(model.built.params.iter().filter(|p| of_encoder(p.group())))?;
    let settings = format!("{:?} {:?}", speech.encoder.config(), config.model.precision);
    let settings = format!("{:08x}", crc32fast::hash(settings.as_bytes()));
    let dtype = |precision| if precision == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let held = dtype(config.data.cache_precision.unwrap_or(config.model.precision));
    let identity = Identity::new(encoder, settings, corpus.fingerprint(), held, speech.emotion.is_some());
    Ok((identity, dtype(config.model.precision)))
}

/// Makes parts of a cache.
struct Maker<'a> {
    config: &'a RunConfig,
    model: &'a Model,
    speech: &'a SpeechPath,
    corpus: &'a Corpus,
    dtype: DType,
}

impl Maker<'_> {
    fn make(&self, dir: &Path, part: usize, plan: &PartPlan) -> Result<()> {
        let costs = self.corpus.costs();
        let item = |&u: &u32| Item { utterance: u, cost: costs[u as usize], rate: SAMPLE_RATE };
        let items: Vec<Item> = plan.utterances.iter().map(item).collect();
        let mut made = BTreeMap::new();
        for batch in micro_batches(&items, self.config.data.micro_batch()) {
            self.encode(&batch, &mut made)?;
        }
        let config = self.speech.encoder.config();
        let layers = if self.speech.emotion.is_some() { config.summed_layers() } else { 0 };
        let mut writer = PartWriter::new(self.dtype, config.hidden_size, layers);
        for (number, (speech, means)) in &made {
            writer.push(*number, speech, means.as_ref()).map_err(crate::autograd::Error::from)?;
        }
        Ok(writer.finish(dir, part)?)
    }

    /// The features of `items`, by number.
    fn encode(&self, items: &[Item], made: &mut BTreeMap<u32, (Tensor, Option<Tensor>)>) -> Result<()> {
        let mut packing = Packing::new(0, self.model.normalizes());
        for item in items {
            match self.corpus.get(item.utterance as usize) {
                Ok(utterance) if utterance.is_text_only() => {}
                Ok(utterance) => packing.push(item.utterance, &utterance),
                // The loader says so when it comes to it.
                Err(CorpusError::Audio(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if packing.is_empty() {
            return Ok(());
        }
        let batch = packing.finish().map_err(crate::autograd::Error::from)?;
        let packed = Packed { seq: batch.wave_lens.clone(), samples: batch.keys.into() };
        let (features, packed) = self.speech.features(&batch.waves, &packed)?;
        let take = |i: usize, rows: std::ops::Range<usize>| -> candle_core::Result<(Tensor, Option<Tensor>)> {
            let speech = features.speech.narrow(0, rows.start, rows.len())?;
            let means = features.means.as_ref().map(|means| means.narrow(1, i, 1)?.squeeze(1)).transpose()?;
            Ok((speech, means))
        };
        for (i, rows) in packed.seq.ranges().enumerate() {
            made.insert(batch.indices[i], take(i, rows).map_err(crate::autograd::Error::from)?);
        }
        Ok(())
    }
}
