//! Threads that build the coming steps while the present one is computed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::audio::{SAMPLE_RATE, SpeedChanger};
use super::corpus::{Corpus, CorpusError, Reject};
use super::features::{CacheError, FeatureCache};
use super::sampler::{Budget, Item, Sampler, StepPlan, micro_batches};
use super::{Batch, DataConfig, Packing, Utterance};

/// Which part of each step a loader builds, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// This rank.
    pub rank: usize,
    /// The node of each rank ([`Placement::ranks`](super::Placement::ranks)).
    pub ranks: Vec<u32>,
    /// What a micro-batch may hold.
    pub micro_batch: Budget,
    /// Whether each waveform is brought to zero mean and unit variance (the encoder's `do_normalize`).
    pub normalize: bool,
    /// Steps each thread builds ahead.
    pub prefetch: usize,
    /// Threads. The order of steps does not depend on them.
    pub threads: usize,
}

impl LoaderOptions {
    /// As `data` says, for rank `rank` of those whose nodes are `ranks`.
    pub fn new(data: &DataConfig, rank: usize, ranks: &[u32], normalize: bool) -> Self {
        let DataConfig { prefetch, threads, .. } = *data;
        Self { rank, ranks: ranks.to_vec(), micro_batch: data.micro_batch(), normalize, prefetch, threads }
    }
}

/// One rank's part of one step.
#[derive(Debug)]
pub struct Step {
    /// Counted from the start of training.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in its epoch, from 0.
    pub step_in_epoch: u64,
    /// This rank's micro-batches; none if there are more ranks than utterances.
    pub batches: Vec<Batch>,
    /// Utterances of all ranks, those left out included.
    pub utterances: usize,
    /// Their cost in seconds, as they are played.
    pub seconds: f64,
    /// This rank's utterances that could not be read, and were left out.
    pub skipped: Vec<Reject>,
    /// How long [`Loader::next`] waited for this step.
    pub waited: Duration,
    /// The skipped utterances' numbers in the corpus.
    skipped_indices: Vec<u32>,
}

/// Why there is no next step.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// The corpus cannot be read, or too much of it cannot.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The cache of features cannot be read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A batch could not be packed.
    #[error("cannot pack a batch: {0}")]
    Pack(#[from] candle_core::Error),
    /// The resampler does not take a speed.
    #[error("data.speed_perturb: cannot play at {speed} times the speed: {reason}")]
    Speed {
        /// The speed.
        speed: f64,
        /// What it said.
        reason: String,
    },
    /// The operating system gives no thread.
    #[error("cannot start a loader thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A loader thread ended without a word.
    #[error("a loader thread died at step {step}")]
    Died {
        /// The step that was due.
        step: u64,
    },
}

/// Yields the steps of a range in order, built ahead by other threads. Ends after the last or after an error.
pub struct Loader {
    corpus: Arc<Corpus>,
    /// Thread `i` builds every step whose distance from the first is `i` modulo their number.
    receivers: Vec<Receiver<Result<Step, LoaderError>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    first: u64,
    steps: Range<u64>,
    bad: HashSet<u32>,
}

/// What a thread needs.
struct Builder {
    corpus: Arc<Corpus>,
    cache: Option<Arc<FeatureCache>>,
    sampler: Arc<Sampler>,
    options: LoaderOptions,
    stop: Arc<AtomicBool>,
}

/// A step to be built.
struct Planned {
    step: u64,
    plan: StepPlan,
    mine: Vec<Item>,
}

impl Loader {
    /// Starts building `steps` of `corpus`, with features instead of waveforms if there is a `cache`.
    pub fn new(
        corpus: Arc<Corpus>,
        cache: Option<Arc<FeatureCache>>,
        sampler: Arc<Sampler>,
        options: &LoaderOptions,
        steps: Range<u64>,
    ) -> Result<Self, LoaderError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (first, bad) = (steps.start, HashSet::new());
        let mut loader =
            Self { corpus, receivers: Vec::new(), threads: Vec::new(), stop, first, steps: steps.clone(), bad };
        let threads = options.threads.max(1);
        for i in 0..threads {
            // The thread itself holds one finished step while it waits for room.
            let (sender, receiver) = sync_channel(options.prefetch.saturating_sub(1));
            let builder = Builder {
                corpus: loader.corpus.clone(),
                cache: cache.clone(),
                sampler: sampler.clone(),
                options: options.clone(),
                stop: loader.stop.clone(),
            };
            let mine = (steps.start + i as u64..steps.end).step_by(threads);
            let thread = std::thread::Builder::new().name(format!("loader-{i}"));
            loader.threads.push(thread.spawn(move || builder.run(mine, &sender))?);
            loader.receivers.push(receiver);
        }
        Ok(loader)
    }

    fn receive(&mut self, step: u64) -> Result<Step, LoaderError> {
        let begun = Instant::now();
        let receiver = &self.receivers[((step - self.first) % self.receivers.len() as u64) as usize];
        let mut built = receiver.recv().unwrap_or(Err(LoaderError::Died { step }))?;
        built.waited = begun.elapsed();
        self.bad.extend(&built.skipped_indices);
        if let Some(first) = built.skipped.first() {
            self.corpus.check_bad(self.bad.len(), first)?;
        }
        Ok(built)
    }
}

impl Iterator for Loader {
    type Item = Result<Step, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.steps.next()?;
        let result = self.receive(step);
        if result.is_err() {
            self.steps = 0..0;
        }
        Some(result)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits for room wakes up when its receiver is gone.
        self.receivers.clear();
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported as `Died`, or nobody asked for its steps.
            let _ = thread.join();
        }
    }
}

impl Builder {
    fn run(&self, mut steps: impl Iterator<Item = u64>, sender: &SyncSender<Result<Step, LoaderError>>) {
        let mut speeds = SpeedChanger::default();
        let mut coming = steps.next().map(|step| self.plan(step));
        while let Some(planned) = coming {
            // The step after this one is on its way from the disk while this one is built.
            coming = steps.next().map(|step| self.plan(step));
            let built = self.build(planned, &mut speeds).transpose();
            let Some(built) = built else { return };
            let failed = built.is_err();
            if sender.send(built).is_err() || failed {
                return;
            }
        }
    }

    /// What step `step` is made of, and this rank's part of it, which the system is told to read.
    fn plan(&self, step: u64) -> Planned {
        let plan = self.sampler.at(step);
        let mine = plan.shares(&self.options.ranks).swap_remove(self.options.rank);
        mine.iter().for_each(|item| match &self.cache {
            Some(cache) => cache.will_need(item.utterance),
            None => self.corpus.will_need(item.utterance as usize),
        });
        Planned { step, plan, mine }
    }

    /// This rank's part of a step; `None` if the loader was dropped meanwhile.
    fn build(&self, planned: Planned, speeds: &mut SpeedChanger) -> Result<Option<Step>, LoaderError> {
        let Planned { step, plan, mine } = planned;
        let mut built = Step {
            step,
            epoch: plan.epoch,
            step_in_epoch: plan.step_in_epoch,
            batches: Vec::new(),
            utterances: plan.items().count(),
            seconds: plan.seconds(),
            skipped: Vec::new(),
            waited: Duration::ZERO,
            skipped_indices: Vec::new(),
        };
        for part in micro_batches(&mine, self.options.micro_batch) {
            let seconds: f64 = part.iter().map(|item| f64::from(item.cost.seconds)).sum();
            let room = (seconds * f64::from(SAMPLE_RATE)).ceil() as usize;
            let mut packing = Packing::new(room, self.options.normalize);
            for item in part {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                match self.read(item, speeds)? {
                    Ok(utterance) => packing.push(item.utterance, &utterance),
                    Err(reason) => {
                        built.skipped.push(self.corpus.reject(item.utterance as usize, reason));
                        built.skipped_indices.push(item.utterance);
                    }
                }
            }
            if !packing.is_empty() {
                let mut batch = packing.finish()?;
                batch.features = self.cache.as_ref().map(|cache| cache.pack(&batch.indices)).transpose()?;
                built.batches.push(batch);
            }
        }
        Ok(Some(built))
    }

    /// The utterance at its speed, without its recording if its features are in a cache; the inner error says why only it is of no use.
    fn read(&self, item: Item, speeds: &mut SpeedChanger) -> Result<Result<Utterance<'_>, String>, LoaderError> {
        if let Some(cache) = &self.cache {
            return match cache.has(item.utterance) {
                true => Ok(Ok(self.corpus.texts(item.utterance as usize)?)),
                false => Ok(Err("its recording could not be read when the features were made".into())),
            };
        }
        let mut utterance = match self.corpus.get(item.utterance as usize) {
            Ok(utterance) => utterance,
            Err(CorpusError::Audio(e)) => return Ok(Err(e.to_string())),
            Err(e) => return Err(e.into()),
        };
        if item.rate != SAMPLE_RATE {
            let speed = f64::from(item.rate) / f64::from(SAMPLE_RATE);
            let played = speeds.play(&utterance.audio, item.rate);
            utterance.audio = played.map_err(|reason| LoaderError::Speed { speed, reason })?.into();
        }
        Ok(Ok(utterance))
    }
}
