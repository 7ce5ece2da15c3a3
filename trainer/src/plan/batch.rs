//! The micro-batch a plan is for.

use serde::Serialize;

use super::Error;
use crate::config::RunConfig;
use crate::data::audio::SAMPLE_RATE;

/// What a plan cannot know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assumptions {
    /// Ranks, a GPU each.
    pub ranks: usize,
    /// Operations a second a rank achieves, in 10^12.
    pub tflops: f64,
    /// GB a second a rank sends, and as much receives, in the all-reduce.
    pub bandwidth: f64,
    /// Seconds of speech in an utterance.
    pub utterance_seconds: f64,
    /// Target tokens in a second of speech, EOS not counted.
    pub tokens_per_second: f64,
}

/// One rank with what good trainers reach on an H100 or H200, and WenetSpeech's utterances.
impl Default for Assumptions {
    fn default() -> Self {
        Self { ranks: 1, tflops: 350.0, bandwidth: 40.0, utterance_seconds: 2.5, tokens_per_second: 3.5 }
    }
}

impl Assumptions {
    pub(super) fn check(&self) -> Result<(), Error> {
        let numbers = [
            ("tflops", self.tflops),
            ("bandwidth", self.bandwidth),
            ("utterance", self.utterance_seconds),
            ("tokens", self.tokens_per_second),
            ("ranks", self.ranks as f64),
        ];
        match numbers.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            Some((name, value)) => Err(Error::Setting(format!("--{name}: expected a positive number, found {value}"))),
            None => Ok(()),
        }
    }
}

/// Utterances, all of one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MicroBatch {
    /// Seconds in all; for a decoder trained from text those its tokens count as.
    pub seconds: f64,
    /// Samples of each utterance; empty without an encoder.
    pub samples: Vec<usize>,
    /// Target tokens of each, with EOS.
    pub targets: Vec<usize>,
    /// Tokens of each beside speech and target: BOS and the request.
    pub prompt: usize,
}

/// Seconds a token of text counts as, and bytes it is estimated at: as `data.global_batch_seconds` has it.
const TOKEN_SECONDS: f64 = 0.2;
const TOKEN_BYTES: usize = 3;

impl MicroBatch {
    /// The largest micro-batch `config` lets a rank compute at a time.
    pub fn of(config: &RunConfig, assumed: &Assumptions) -> Self {
        let data = &config.data;
        let of_a_rank = data.global_batch_seconds / assumed.ranks as f64;
        let seconds = data.micro_batch_seconds.min(of_a_rank);
        let each = assumed.utterance_seconds;
        let text = config.encoder.is_none();
        let target = if text { each / TOKEN_SECONDS } else { each * assumed.tokens_per_second };
        let target = target.ceil().max(1.0) as usize;
        let mut count = (seconds / each).floor().max(1.0) as usize;
        if let most @ 1.. = data.micro_batch_tokens as usize {
            count = count.min((most / target).max(1));
        }
        let samples = if text { 0 } else { count };
        Self {
            seconds: count as f64 * each,
            samples: vec![(each * f64::from(SAMPLE_RATE)) as usize; samples],
            targets: vec![target + 1; count],
            prompt: 1 + config.prompt.text.len().div_ceil(TOKEN_BYTES),
        }
    }
}
