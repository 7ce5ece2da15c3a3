//! One optimizer step's forward and backward over this rank's micro-batches.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use echat_kernels::accumulate::add;
use echat_kernels::readback::Readback;
use echat_kernels::step_control::Decided;

use super::Result;
use crate::autograd::{self, Buckets, StepRng, Tape};
use crate::data::text::Layout;
use crate::dist::{Collective, Pending};
use crate::model::echat::{Batch, EChat, Losses};

/// Sums over utterances: of one micro-batch, one rank, or all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Cross-entropy over target tokens, nats.
    pub decoder_loss: f64,
    /// Target tokens.
    pub tokens: f64,
    /// Target tokens with the highest logit.
    pub tokens_correct: f64,
    /// Cross-entropy over utterances, nats.
    pub emotion_loss: f64,
    /// Utterances with an emotion.
    pub emotions: f64,
    /// Those whose class had the highest probability.
    pub emotions_correct: f64,
}

/// One rank's sums, as long as they are on the device that computed them: nothing waits for it before they are read.
#[derive(Debug, Default)]
pub struct Tally {
    /// Each micro-batch's summed loss and right answers, [2] f64.
    decoder: Vec<Tensor>,
    emotion: Vec<Tensor>,
    tokens: u64,
    emotions: u64,
}

impl Tally {
    /// Adds the losses of one micro-batch.
    pub fn add(&mut self, losses: &Losses) {
        self.tokens += losses.decoder.count;
        self.decoder.push(losses.decoder.sums.clone());
        if let Some(emotion) = &losses.emotion {
            self.emotions += emotion.probabilities.dims()[0] as u64;
            self.emotion.push(emotion.sums.clone());
        }
    }

    /// The numbers; waits for the device.
    pub fn read(&self) -> Result<Sums> {
        let numbers = Readback::start(&self.tensors()).and_then(Readback::numbers).map_err(autograd::Error::from)?;
        Ok(self.sums(&numbers))
    }

    /// Sends for the numbers, and for those of `decision`, the optimizer's about this step.
    pub fn send_for(self, decision: &Tensor) -> Result<Outcome> {
        let mut tensors = self.tensors();
        tensors.push(decision);
        let numbers = Readback::start(&tensors).map_err(autograd::Error::from)?;
        Ok(Outcome { tally: self, numbers })
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.decoder.iter().chain(&self.emotion).collect()
    }

    /// Of the numbers in all of [`Tally::tensors`].
    fn sums(&self, numbers: &[f64]) -> Sums {
        let total = |numbers: &[f64]| {
            numbers.chunks_exact(2).fold([0.0; 2], |[loss, right], pair| [loss + pair[0], right + pair[1]])
        };
        let (decoder, emotion) = numbers.split_at(2 * self.decoder.len());
        let ([decoder_loss, tokens_correct], [emotion_loss, emotions_correct]) = (total(decoder), total(emotion));
        let (tokens, emotions) = (self.tokens as f64, self.emotions as f64);
        Sums { decoder_loss, tokens, tokens_correct, emotion_loss, emotions, emotions_correct }
    }
}

/// A step's numbers on their way from the device.
#[derive(Debug)]
pub struct Outcome {
    tally: Tally,
    numbers: Readback,
}

impl Outcome {
    /// What is waited for.
    pub fn numbers(&self) -> &Readback {
        &self.numbers
    }

    /// This rank's losses, and what the optimizer decided; waits for them.
    pub fn read(self) -> Result<(Sums, Decided)> {
        let numbers = self.numbers.numbers().map_err(autograd::Error::from)?;
        let (sums, decision) = numbers.split_at(2 * self.tally.tensors().len());
        Ok((self.tally.sums(sums), Decided::from_numbers(decision).map_err(autograd::Error::from)?))
    }
}

/// What a step cost this rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Model arithmetic, without recomputation.
    pub flops: f64,
    /// Positions the decoder read.
    pub positions: f64,
    /// Time spent waiting for other ranks' gradients: by this rank, or by its GPU.
    pub waited: Duration,
}

impl Work {
    /// Adds another step's.
    pub fn add(&mut self, other: &Self) {
        self.flops += other.flops;
        self.positions += other.positions;
        self.waited += other.waited;
    }
}

impl Sums {
    /// Over all ranks.
    pub fn all_reduce(&mut self, collective: &mut dyn Collective) -> Result<()> {
        let mut values = [
            self.decoder_loss,
            self.tokens,
            self.tokens_correct,
            self.emotion_loss,
            self.emotions,
            self.emotions_correct,
        ];
        collective.all_reduce_f64(&mut values)?;
        [
            self.decoder_loss,
            self.tokens,
            self.tokens_correct,
            self.emotion_loss,
            self.emotions,
            self.emotions_correct,
        ] = values;
        Ok(())
    }

    /// L_decoder: per token.
    pub fn decoder(&self) -> f64 {
        self.decoder_loss / self.tokens.max(1.0)
    }

    /// L_emotion: per utterance.
    pub fn emotion(&self) -> f64 {
        self.emotion_loss / self.emotions.max(1.0)
    }

    /// (1-α)·L_decoder + α·L_emotion.
    pub fn total(&self, alpha: f64) -> f64 {
        (1.0 - alpha) * self.decoder() + alpha * self.emotion()
    }

    /// Share of target tokens that had the highest logit.
    pub fn token_accuracy(&self) -> f64 {
        self.tokens_correct / self.tokens.max(1.0)
    }

    /// Share of utterances whose emotion was recognised.
    pub fn emotion_accuracy(&self) -> f64 {
        self.emotions_correct / self.emotions.max(1.0)
    }
}

/// What each loss sum is multiplied by: its weight over the global count, so that gradients summed over micro-batches and ranks
/// are those of the global loss.
#[derive(Clone, Copy, Debug)]
pub struct LossScale {
    decoder: f64,
    emotion: f64,
}

impl LossScale {
    /// For `tokens` target tokens and `emotions` utterances in the global batch.
    pub fn new(alpha: f64, tokens: f64, emotions: f64) -> Self {
        Self { decoder: (1.0 - alpha) / tokens.max(1.0), emotion: alpha / emotions.max(1.0) }
    }
}

/// Differentiates `batches` one after the other and leaves the global gradient in `buckets`, summed over ranks; each bucket's
/// all-reduce starts as soon as the last micro-batch has finished it. Returns this rank's losses, and what they cost; a device may
/// still be at work on them, and what it waited is not among it.
pub fn accumulate(
    model: &EChat,
    layout: &Layout,
    buckets: &Buckets,
    collective: &mut dyn Collective,
    batches: &[Batch],
    rng: StepRng,
    scale: LossScale,
) -> Result<(Tally, Work)> {
    buckets.zero_grad()?;
    let (mut tally, mut work) = (Tally::default(), Work::default());
    let mut reduce = Reduce { buckets, collective, pending: Vec::new(), failed: None };
    for (i, batch) in batches.iter().enumerate() {
        let tape = Tape::training(rng);
        let losses = model.losses(&tape, batch, layout)?;
        tally.add(&losses);
        spoil(buckets, &losses)?;
        let scalar = |value: f64| Tensor::new(value as f32, &Device::Cpu).map_err(autograd::Error::from);
        let mut seeds = vec![(&losses.decoder.loss, scalar(scale.decoder)?)];
        if let Some(emotion) = &losses.emotion {
            seeds.push((&emotion.loss, scalar(scale.emotion)?));
        }
        let mut start = |bucket| reduce.start(bucket);
        let mut sink = buckets.sink(if i + 1 == batches.len() { Some(&mut start) } else { None });
        let result = tape.backward(&seeds, &mut sink).and_then(|()| sink.finish());
        reduce.check()?;
        result?;
        work.flops += tape.flops();
        work.positions += losses.positions as f64;
    }
    if batches.is_empty() {
        (0..buckets.len()).try_for_each(|bucket| reduce.start(bucket))?;
        reduce.check()?;
    }
    let begun = Instant::now();
    reduce.finish()?;
    work.waited = begun.elapsed();
    Ok((tally, work))
}

/// Makes the gradient NaN if a loss is not finite, so that no rank takes a step by it: a gradient may be finite all the same. Before any all-reduce of it, and
/// where the loss is: nothing is read.
fn spoil(buckets: &Buckets, losses: &Losses) -> Result<()> {
    let Some(first) = buckets.iter().next().filter(|bucket| !bucket.is_empty()) else { return Ok(()) };
    let spoil = |sums: &Tensor| {
        let nothing = sums.narrow(0, 0, 1)?.affine(0.0, 0.0)?.to_dtype(DType::F32)?;
        Ok(add(&first.grad.narrow(0, 0, 1)?, &nothing)?)
    };
    let emotion = losses.emotion.as_ref().map(|emotion| &emotion.sums);
    std::iter::once(&losses.decoder.sums).chain(emotion).try_for_each(spoil).map_err(|e: autograd::Error| e.into())
}

/// All-reduces under way.
struct Reduce<'a> {
    buckets: &'a Buckets,
    collective: &'a mut dyn Collective,
    pending: Vec<Pending>,
    failed: Option<crate::dist::Error>,
}

impl Reduce<'_> {
    /// Called by the tape when bucket `bucket` is complete.
    fn start(&mut self, bucket: usize) -> autograd::Result<()> {
        let started = self.collective.start_sum(&self.buckets.get(bucket).grad).and_then(|pending| {
            self.pending.push(pending);
            self.collective.progress()
        });
        if let Err(error) = started {
            self.failed = Some(error);
            return Err(autograd::Error::Model("the all-reduce failed".into()));
        }
        Ok(())
    }

    /// The collective's own error, if it was the cause.
    fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Waits for the sums and puts them in place of the gradients.
    fn finish(self) -> Result<()> {
        for (bucket, pending) in self.pending.into_iter().enumerate() {
            self.collective.finish_sum(pending, &self.buckets.get(bucket).grad)?;
        }
        Ok(())
    }
}
