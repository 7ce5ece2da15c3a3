//! The loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use echat_kernels::step_control::{Decided, Decision};

use super::state::{Progress, SavedState, restore, snapshot};
use super::watch::{Interval, Watch};
use super::{Error, LossScale, Model, Outcome, ProcessorKinds, Result, Sums, Validation};
use super::{accumulate, open_cache, target_tokens};
use crate::autograd::StepRng;
use crate::checkpoint::{self, run_dir};
use crate::config::RunConfig;
use crate::data::features::FeatureCache;
use crate::data::{Corpus, Loader, LoaderOptions, Sampler, Step};
use crate::dist::{self, Collective};
use crate::metrics::names;
use crate::model::echat::Batch;
use crate::optim::Optimizer;

/// A run: its fields are its table of contents.
pub struct Trainer<'a> {
    config: &'a RunConfig,
    /// The configuration as resolved, for the run directory and checkpoints.
    resolved: String,
    collective: &'a mut dyn Collective,
    model: Model,
    optimizer: Optimizer,
    corpus: Arc<Corpus>,
    cache: Option<Arc<FeatureCache>>,
    sampler: Arc<Sampler>,
    validation: Option<Validation>,
    progress: Progress,
    /// The latest step and its outcome, until it is known.
    under_way: Option<(u64, Outcome)>,
    frozen: BTreeMap<String, String>,
    processors: ProcessorKinds,
    data_order: String,
    watch: Watch,
    /// The latest validation, for choosing the best checkpoint.
    validated: BTreeMap<String, f64>,
}

impl<'a> Trainer<'a> {
    /// Builds model and data and, if `from` names a checkpoint, goes on from it. Every rank calls it.
    pub fn new(
        config: &'a RunConfig,
        resolved: String,
        from: Option<&Path>,
        collective: &'a mut dyn Collective,
    ) -> Result<Self> {
        if config.data.train.is_empty() {
            return Err(Error::Setting("data.train is empty: there is nothing to train on".into()));
        }
        config.data.validate().map_err(|e| Error::Setting(e.to_string()))?;
        let corpus = Corpus::open_for(&config.data.train, &config.data, collective)?;
        let device = dist::device(&config.dist, collective.world())?;
        let mut notes = dist::attach(collective, &device, &config.dist)?;
        let processors = ProcessorKinds::gather(&device, collective)?;
        let mut model = Model::for_training(config, &device)?;
        let frozen = model.frozen_fingerprints()?;
        model.settle()?;
        let mut optimizer = Optimizer::new(&config.optimizer, &model.buckets)?;
        config.schedule.validate()?;
        let data_order = data_order(&corpus, config);
        let saved = from.map(|path| resume(path, config, &model, &frozen, &mut optimizer)).transpose()?;
        let reordered = saved.as_ref().is_some_and(|saved| saved.data_order != data_order);
        let change = saved.as_ref().and_then(|s| processors.change(&s.processors, s.progress.step));
        notes.extend(change);
        let progress = saved.map(|saved| saved.progress).unwrap_or_default();
        same_everywhere(&model, collective)?;
        let validation = if config.data.valid.is_empty() {
            None
        } else {
            let held_out = Corpus::open_for(&config.data.valid, &config.data, collective)?;
            Some(Validation::new(held_out, collective, config.data.micro_batch(), model.normalizes()))
        };
        let cache = open_cache(config, &model, &corpus, collective)?;
        let watch =
            Watch::open(config, &model, &corpus, collective.world(), &processors, progress.step, from.is_some())?;
        notes.iter().for_each(|note| watch.say(note));
        if reordered {
            watch.say(&format!(
                "warning: another corpus, mixture, placement or data.global_batch_seconds than before step {}: from here on the order \
                 of the data is a new one",
                progress.step
            ));
        }
        let options = config.data.sampler_options(config.output.seed);
        let sampler = Sampler::new(Arc::clone(corpus.costs()), corpus.groups(), &options);
        Ok(Self {
            config,
            resolved,
            collective,
            model,
            optimizer,
            corpus: Arc::new(corpus),
            cache,
            sampler: Arc::new(sampler),
            validation,
            progress,
            under_way: None,
            frozen,
            processors,
            data_order,
            watch,
            validated: BTreeMap::new(),
        })
    }

    /// Trains to the last step, validating and saving on the way.
    pub fn run(mut self) -> Result<()> {
        let (first, last) = (self.progress.step, self.config.train.steps);
        if first >= last {
            self.watch.say(&format!("nothing to do: the run is at step {first} of {last}"));
            return Ok(());
        }
        let world = self.collective.world();
        let ranks = &self.corpus.placement().ranks;
        let options = LoaderOptions::new(&self.config.data, world.rank, ranks, self.model.normalizes());
        let loader = Loader::new(
            Arc::clone(&self.corpus),
            self.cache.clone(),
            Arc::clone(&self.sampler),
            &options,
            first..last,
        )?;
        let mut interval = Interval::new();
        for data in loader {
            let data = data?;
            self.step(&data, &mut interval)?;
            let step = self.progress.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            let logs = due(self.config.train.log_every) || step == last || step == 1;
            if logs || due(self.config.validation.every) || due(self.config.checkpoint.every_steps) {
                self.settle(&mut interval)?;
            }
            if logs {
                let lr = self.lr_factor(step - 1);
                let done = std::mem::replace(&mut interval, Interval::new());
                self.watch.interval(done, &self.progress, lr, &self.model, &mut *self.collective)?;
            }
            if due(self.config.validation.every) || step == last {
                self.validate()?;
                interval.restart_clock();
            }
            if due(self.config.checkpoint.every_steps) || step == last {
                self.save()?;
                interval.restart_clock();
            }
        }
        self.watch.finish()
    }

    fn lr_factor(&self, step: u64) -> f64 {
        self.config.schedule.factor(step, self.config.train.steps)
    }

    /// Asks for one optimizer step. What came of it is looked at once the next has been asked for, or where it is needed, so that a GPU always has
    /// work to do.
    fn step(&mut self, data: &Step, interval: &mut Interval) -> Result<()> {
        self.watch.skipped(&data.skipped);
        let batches: Vec<Batch> = data.batches.iter().map(|b| self.model.examples.batch(b)).collect::<Result<_>>()?;
        let emotions: usize = batches.iter().map(|b| b.emotions.len()).sum();
        let mut counts = [target_tokens(&batches) as f64, emotions as f64];
        self.collective.all_reduce_f64(&mut counts)?;
        let alpha = self.config.train.alpha;
        let (tally, work) = accumulate(
            &self.model.built.model,
            &self.model.examples.layout,
            &self.model.buckets,
            &mut *self.collective,
            &batches,
            StepRng::new(self.config.output.seed, data.step),
            LossScale::new(alpha, counts[0], counts[1]),
        )?;
        // The gradient is the same on every rank, so all decide alike; and where it is, so a GPU need not wait for its host.
        let decision = self.optimizer.decide(&self.model.buckets)?;
        self.optimizer.step(&self.model.buckets, self.lr_factor(data.step), Decision::Made(&decision))?;
        let outcome = tally.send_for(&decision)?;
        self.settle(interval)?;
        self.under_way = Some((data.step, outcome));
        self.progress.step = data.step + 1;
        self.progress.audio_seconds += data.seconds;
        interval.add(data, &work);
        Ok(())
    }

    /// Waits for the outcome of the latest step that was asked for, if it is not known yet.
    fn settle(&mut self, interval: &mut Interval) -> Result<()> {
        let Some((step, outcome)) = self.under_way.take() else { return Ok(()) };
        // Reading would wait too, but for ever if another rank is gone.
        self.collective.await_numbers(outcome.numbers())?;
        let (mut sums, decided) = outcome.read()?;
        sums.all_reduce(&mut *self.collective)?;
        self.optimizer.learn(&decided);
        self.progress.updates = self.optimizer.steps();
        interval.learn(&sums, decided.norm, self.collective.waited());
        self.judge(step, &sums, &decided)
    }

    /// Counts a step that no rank has taken because something was not finite; too many end the run.
    fn judge(&mut self, step: u64, sums: &Sums, decided: &Decided) -> Result<()> {
        if decided.go {
            return Ok(());
        }
        let (norm, loss) = (decided.norm, sums.total(self.config.train.alpha));
        self.progress.skipped_steps += 1;
        let count = self.progress.skipped_steps;
        if count > self.config.train.max_nonfinite_steps {
            return Err(Error::NonFinite { step: step + 1, count, loss, norm });
        }
        self.watch.say(&format!(
            "step {}: loss {loss}, gradient norm {norm}: not finite, no rank steps ({count} of {} allowed)",
            step + 1,
            self.config.train.max_nonfinite_steps
        ));
        Ok(())
    }

    fn validate(&mut self) -> Result<()> {
        let Some(validation) = &self.validation else { return Ok(()) };
        let (model, examples) = (&self.model.built.model, &self.model.examples);
        let sums = validation.losses(model, examples, &mut *self.collective)?;
        let alpha = self.config.train.alpha;
        self.validated = BTreeMap::from([(names::VALID_LOSS.tag.to_owned(), sums.total(alpha))]);
        self.validated.insert(names::VALID_LOSS_DECODER.tag.to_owned(), sums.decoder());
        self.validated.insert(names::VALID_TOKEN_ACCURACY.tag.to_owned(), sums.token_accuracy());
        if self.config.model.emotion {
            self.validated.insert(names::VALID_LOSS_EMOTION.tag.to_owned(), sums.emotion());
            self.validated.insert(names::VALID_EMOTION_ACCURACY.tag.to_owned(), sums.emotion_accuracy());
        }
        self.watch.validation(self.progress.step, &sums, alpha, self.config.model.emotion)?;
        self.watch.samples(self.progress.step, validation, &self.model, self.config.validation.samples)
    }

    /// Rank 0 writes; the others wait, so that none is ahead of a checkpoint it may be resumed from.
    fn save(&mut self) -> Result<()> {
        let mut failure = Vec::new();
        if self.collective.world().rank == 0
            && let Err(error) = self.write_checkpoint()
        {
            failure = error.to_string().into_bytes();
        }
        self.collective.broadcast_bytes(0, &mut failure)?;
        if failure.is_empty() {
            return Ok(());
        }
        Err(Error::Setting(String::from_utf8_lossy(&failure).into_owned()))
    }

    fn write_checkpoint(&mut self) -> Result<()> {
        let state = SavedState {
            progress: self.progress.clone(),
            seed: self.config.output.seed,
            ranks: self.collective.world().size,
            processors: self.processors.clone(),
            frozen: self.frozen.clone(),
            data_order: self.data_order.clone(),
            config: self.resolved.clone(),
        };
        let snapshot = snapshot(&self.model.buckets, &self.optimizer, &state, self.validated.clone())?;
        let dir = checkpoints(self.config);
        let saved = checkpoint::save(&dir, &snapshot, &self.config.checkpoint)?;
        for warning in &saved.warnings {
            self.watch.say(&format!("warning: {warning}"));
        }
        self.watch.say(&format!("saved {}", saved.path.display()));
        Ok(())
    }
}

/// Where a run's checkpoints lie.
fn checkpoints(config: &RunConfig) -> PathBuf {
    config.output.dir.join(run_dir::CHECKPOINTS)
}

fn resume(
    path: &Path,
    config: &RunConfig,
    model: &Model,
    frozen: &BTreeMap<String, String>,
    optimizer: &mut Optimizer,
) -> Result<SavedState> {
    let state = restore(path, &model.buckets, optimizer)?;
    if state.seed != config.output.seed {
        return Err(Error::Setting(format!(
            "{}: saved with output.seed = {}, now {}; the data order would change: keep the seed, or start anew from it with \
             model.init",
            path.display(),
            state.seed,
            config.output.seed
        )));
    }
    if let Some((part, _)) = state.frozen.iter().find(|(part, print)| frozen.get(*part) != Some(print)) {
        return Err(Error::Setting(format!(
            "{}: the frozen {part} is not the one this checkpoint was trained with; give the same weights",
            path.display()
        )));
    }
    Ok(state)
}

/// What the order of the data follows from besides the seed: every utterance's length, who is dealt with whom, and how much a step
/// holds.
fn data_order(corpus: &Corpus, config: &RunConfig) -> String {
    let mut hash = crc32fast::Hasher::new();
    for cost in corpus.costs().iter() {
        hash.update(&cost.seconds.to_le_bytes());
    }
    hash.update(format!("{:?} {:?}", config.data.weights, config.data.speed_perturb).as_bytes());
    for group in corpus.groups() {
        hash.update(format!("{group:?}").as_bytes());
    }
    format!("{:08x} of {} in {} s", hash.finalize(), corpus.len(), config.data.global_batch_seconds)
}

/// Errors unless all ranks begin with the same parameters.
fn same_everywhere(model: &Model, collective: &mut dyn Collective) -> Result<()> {
    let mine = crate::model::weights::fingerprint(model.built.params.iter())?;
    let all = collective.all_gather_bytes(mine.as_bytes())?;
    match all.iter().position(|other| *other != all[0]) {
        None => Ok(()),
        Some(rank) => Err(Error::Setting(format!(
            "rank {rank} begins with other weights than rank 0: do all nodes see the same files?"
        ))),
    }
}
