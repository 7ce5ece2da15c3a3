//! What a run shows: metrics files, terminal lines, samples. Rank 0 writes; figures are of all ranks.

use std::time::{Duration, Instant};

use echat_kernels::tensor;

use super::state::Progress as Counters;
use super::{Model, ProcessorKinds, Result, Sums, Validation, Work};
use crate::autograd::{Error, Param};
use crate::config::RunConfig;
use crate::data::corpus::Reject;
use crate::data::{Corpus, Step};
use crate::dist::{Collective, World};
use crate::eval::answer;
use crate::metrics::{MetricsFiles, Progress, Record, names};
use crate::model::echat::sizes;
use crate::model::generate::Sampling;

/// Longest sample shown, in tokens.
const SAMPLE_TOKENS: usize = 64;

/// Rank 0's windows on the run; other ranks have none.
pub struct Watch {
    windows: Option<Windows>,
    alpha: f64,
    emotion: bool,
    /// Of one rank's device; 0 where it is not known.
    peak_tflops: f64,
    /// Peak learning rate of each group that trains.
    rates: Vec<(&'static str, f64)>,
}

struct Windows {
    files: MetricsFiles,
    progress: Progress,
}

/// What happened since the last record.
pub struct Interval {
    begun: Instant,
    steps: u64,
    sums: Sums,
    norm: f64,
    waited: Duration,
    audio_seconds: f64,
    utterances: usize,
    work: Work,
}

impl Interval {
    /// Begins now.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
            sums: Sums::default(),
            norm: 0.0,
            waited: Duration::ZERO,
            audio_seconds: 0.0,
            utterances: 0,
            work: Work::default(),
        }
    }

    /// Takes the time of a validation or a save out of the figures of speed.
    pub fn restart_clock(&mut self) {
        self.begun = Instant::now();
        self.waited = Duration::ZERO;
        self.audio_seconds = 0.0;
        self.work = Work::default();
        self.steps = 0;
    }

    /// One more step was asked for.
    pub fn add(&mut self, data: &Step, work: &Work) {
        self.steps += 1;
        self.waited += data.waited;
        self.audio_seconds += data.seconds;
        self.utterances = data.utterances;
        self.work.add(work);
    }

    /// The outcome of the last step but one, or of the last: what the run shows is that of the last of an interval.
    pub fn learn(&mut self, sums: &Sums, norm: f64, waited: Duration) {
        self.sums = *sums;
        self.norm = norm;
        self.work.waited += waited;
    }
}

impl Watch {
    /// Opens the run's files on rank 0 and prints what is about to happen.
    pub fn open(
        config: &RunConfig,
        model: &Model,
        corpus: &Corpus,
        world: &World,
        processors: &ProcessorKinds,
        step: u64,
        resumed: bool,
    ) -> Result<Self> {
        let mut rates: Vec<(&'static str, f64)> = Vec::new();
        for param in model.built.params.iter().filter(|p| p.slot().is_some()) {
            let name = param.group().name();
            if !rates.iter().any(|(known, _)| *known == name) {
                rates.push((name, config.optimizer.peak_lr(param.group())));
            }
        }
        let windows = if world.rank == 0 {
            let files = MetricsFiles::open(&config.output.dir, resumed.then_some(step))?;
            Some(Windows { files, progress: Progress::new(step, config.train.steps) })
        } else {
            None
        };
        let watch = Self {
            windows,
            alpha: config.train.alpha,
            emotion: config.model.emotion,
            peak_tflops: config.output.peak_tflops,
            rates,
        };
        watch.introduce(model, corpus);
        let (ranks, threads) = (world.size, crate::train::threads());
        watch.say(&format!("{ranks} ranks, {threads} threads each, {processors}, from step {step}"));
        Ok(watch)
    }

    fn introduce(&self, model: &Model, corpus: &Corpus) {
        for note in &model.built.notes {
            self.say(note);
        }
        self.say(&format!("data: {}", corpus.report().summary()));
        for reject in corpus.report().bad.iter().take(10) {
            self.say(&format!("left out {}: {}: {}", reject.source, reject.id, reject.reason));
        }
        let trained = model.buckets.elements();
        let buckets = model.buckets.len();
        self.say(&format!("parameters: {}; {trained} train, in {buckets} buckets", sizes(&model.built.params)));
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        if let Some(windows) = &self.windows {
            windows.progress.print(line);
        }
    }

    /// Utterances a loader had to leave out.
    pub fn skipped(&self, rejects: &[Reject]) {
        for reject in rejects {
            self.say(&format!("left out {}: {}: {}", reject.source, reject.id, reject.reason));
        }
    }

    /// Records an interval. Every rank calls it.
    pub fn interval(
        &mut self,
        interval: Interval,
        counters: &Counters,
        lr_factor: f64,
        model: &Model,
        collective: &mut dyn Collective,
    ) -> Result<()> {
        let wall = interval.begun.elapsed().as_secs_f64().max(1e-9);
        let work = interval.work;
        let waited = [interval.waited, work.waited].map(|t| t.as_secs_f64() / wall);
        let mut totals = [waited[0], waited[1], work.flops, work.positions];
        collective.all_reduce_f64(&mut totals)?;
        let [data_wait, comm_wait, flops, positions] = totals;
        let memory = largest(resident_gib(), collective)?;
        let ranks = collective.world().size as f64;
        let Some(windows) = &mut self.windows else { return Ok(()) };
        let mut record = Record::new(counters.step);
        record.push(&names::LOSS, interval.sums.total(self.alpha));
        record.push(&names::LOSS_DECODER, interval.sums.decoder());
        record.push(&names::TOKEN_ACCURACY, interval.sums.token_accuracy());
        if self.emotion {
            record.push(&names::LOSS_EMOTION, interval.sums.emotion());
            record.push(&names::EMOTION_ACCURACY, interval.sums.emotion_accuracy());
        }
        for (group, peak) in &self.rates {
            record.push(names::LEARNING_RATE.of(group), peak * lr_factor);
        }
        record.push(&names::GRAD_NORM, interval.norm);
        record.push(&names::SKIPPED_STEPS, counters.skipped_steps as f64);
        record.push(&names::AUDIO_HOURS_PER_HOUR, interval.audio_seconds / wall);
        record.push(&names::STEP_SECONDS, wall / interval.steps.max(1) as f64);
        record.push(&names::TOKENS_PER_SECOND, positions / wall);
        record.push(&names::TFLOPS, flops / wall / 1e12);
        if self.peak_tflops > 0.0 {
            record.push(&names::MFU, flops / wall / 1e12 / (self.peak_tflops * ranks));
        }
        record.push(&names::DATA_WAIT, data_wait / ranks);
        record.push(&names::COMM_WAIT, comm_wait / ranks);
        record.push(&names::AUDIO_SECONDS, interval.audio_seconds / interval.steps.max(1) as f64);
        record.push(&names::UTTERANCES, interval.utterances as f64);
        record.push(&names::TARGET_TOKENS, interval.sums.tokens);
        record.push(&names::PADDING, 0.0);
        record.push(&names::MEMORY, memory);
        if let Some(speech) = &model.built.model.speech {
            record.layers.push(((&names::SPEECH_LAYERS).into(), shares(&speech.speech_layer_weights)?));
            if let Some((weights, _)) = &speech.emotion {
                record.layers.push(((&names::EMOTION_LAYERS).into(), shares(weights)?));
            }
        }
        windows.files.write(&record)?;
        windows.progress.step(counters.step);
        windows.progress.record(&record);
        Ok(())
    }

    /// Records a validation.
    pub fn validation(&mut self, step: u64, sums: &Sums, alpha: f64, emotion: bool) -> Result<()> {
        let Some(windows) = &mut self.windows else { return Ok(()) };
        let mut record = Record::new(step);
        record.push(&names::VALID_LOSS, sums.total(alpha));
        record.push(&names::VALID_LOSS_DECODER, sums.decoder());
        record.push(&names::VALID_TOKEN_ACCURACY, sums.token_accuracy());
        if emotion {
            record.push(&names::VALID_LOSS_EMOTION, sums.emotion());
            record.push(&names::VALID_EMOTION_ACCURACY, sums.emotion_accuracy());
        }
        windows.files.write(&record)?;
        windows.progress.record(&record);
        Ok(())
    }

    /// Writes what the model says to the first `count` held-out utterances of rank 0.
    pub fn samples(&mut self, step: u64, validation: &Validation, model: &Model, count: usize) -> Result<()> {
        let Some(windows) = &mut self.windows else { return Ok(()) };
        let Some(utterances) = validation.batches().next().filter(|_| count > 0) else { return Ok(()) };
        let utterances = utterances?.first(count).map_err(Error::from)?;
        let examples = &model.examples;
        let batch = examples.batch(&utterances)?;
        let sampling = Sampling::greedy(SAMPLE_TOKENS);
        let answers = answer(&model.built.model, &batch, &examples.layout, &sampling, &examples.stops)?;
        let mut text = String::from("| utterance | reference | model |\n|---|---|---|\n");
        for ((id, reference), answer) in utterances.ids.iter().zip(examples.references(&utterances)).zip(&answers) {
            text.push_str(&format!("| {id} | {reference} | {} |\n", examples.tokenizer.decode(&answer.tokens)?));
        }
        windows.files.text(step, "samples", &text)?;
        Ok(())
    }

    /// Closes the files.
    pub fn finish(self) -> Result<()> {
        if let Some(windows) = self.windows {
            windows.progress.finish();
            windows.files.finish()?;
        }
        Ok(())
    }
}

/// Softmax of raw layer weights.
fn shares(weights: &Param) -> Result<Vec<f64>> {
    let raw = tensor::to_host(&weights.tensor())?;
    let exps: Vec<f64> = raw.iter().map(|&w| f64::from(w).exp()).collect();
    let sum: f64 = exps.iter().sum();
    Ok(exps.into_iter().map(|e| e / sum).collect())
}

/// Resident memory of this process in GiB; 0 where the system does not say.
fn resident_gib() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0 / f64::from(1 << 30)
}

fn largest(value: f64, collective: &mut dyn Collective) -> Result<f64> {
    let all = collective.all_gather_bytes(&value.to_le_bytes())?;
    Ok(all.into_iter().filter_map(|b| b.try_into().ok().map(f64::from_le_bytes)).fold(value, f64::max))
}
