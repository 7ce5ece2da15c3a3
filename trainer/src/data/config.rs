//! `[data]`.

use std::path::PathBuf;

use super::Target;
use super::audio::SAMPLE_RATE;
use super::corpus::{CorpusOptions, PlacementKind};
use super::sampler::{Budget, SamplerOptions};
use crate::config::section;
use crate::model::echat::Precision;

section! {
    /// What is trained on, and in what portions.
    pub struct DataConfig {
        /// Training corpus: JSONL manifests, directories made by `echat prepare`, or single shards; read as one.
        pub train: Vec<PathBuf> = Vec::new(),
        /// The share of each entry of `train` in the seconds of every step, in any unit; each entry then has epochs of its own.
        /// Empty: the entries are one corpus.
        pub weights: Vec<f64> = Vec::new(),
        /// Where the corpora lie.
        pub placement: PlacementKind = PlacementKind::Shared,
        /// Validation corpus, as `train`; without one there is no validation.
        pub valid: Vec<PathBuf> = Vec::new(),
        /// What the decoder learns to write.
        pub target: Target = Target::Text,
        /// Recordings shorter than this many seconds are left out (counted and reported).
        pub min_seconds: f64 = 0.1,
        /// Recordings longer than this many seconds are left out (counted and reported).
        pub max_seconds: f64 = 30.0,
        /// Share of utterances that may be unusable (unreadable, without target) before it is an error; up to it they
        /// are left out, counted and listed.
        pub max_bad_share: f64 = 0.01,
        /// Read every byte of every shard at the start and compare it with its checksum. Without it each utterance is
        /// checked when it is read.
        pub verify: bool = false,
        /// Seconds of speech in a step over all ranks, at most. Three bytes of a text-only utterance's text (a Chinese character, a
        /// token) count as 0.2 s. Make it several times `max_seconds`: below it, steps are single utterances.
        pub global_batch_seconds: f64 = 960.0,
        /// Seconds of speech one rank computes at a time, at most; a rank's part of a step is computed in so many pieces,
        /// and their gradients added. Bounds memory, changes no result.
        pub micro_batch_seconds: f64 = 120.0,
        /// Target tokens one rank computes at a time, at most, estimated as three bytes of text each; 0 for any number.
        pub micro_batch_tokens: u64 = 0,
        /// Speeds at which training utterances are played, pitch and all, one drawn for each utterance in each epoch, such as
        /// [0.9, 1.0, 1.1]; empty: as they are. Steps are planned by unchanged lengths, micro-batches by changed ones.
        pub speed_perturb: Vec<f64> = Vec::new(),
        /// Where to keep what the frozen encoder makes of `train` (stage 2): computed once, before training if it is not there, and taken instead of the
        /// recordings from then on. It is refused when the encoder, its settings or the corpus have changed. Empty: no cache.
        pub cache: PathBuf = PathBuf::new(),
        /// In what the cache holds features; not given, as model.precision: then they are exactly what the encoder makes.
        pub cache_precision: Option<Precision> = None,
        /// Steps each loader thread prepares ahead.
        pub prefetch: usize = 2,
        /// Loader threads per rank. One keeps up with shards; decoding compressed recordings may want more.
        pub threads: usize = 1,
    }
}

/// A value of `[data]` outside its range.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("data.{key}: expected {expected}, found {value}")]
pub struct SettingError {
    /// The key.
    pub key: &'static str,
    /// What it must be.
    pub expected: &'static str,
    /// What it is.
    pub value: f64,
}

impl DataConfig {
    /// Errors on values outside their range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let check = |key, value: f64, expected, fits: bool| match fits {
            true => Ok(()),
            false => Err(SettingError { key, expected, value }),
        };
        let (min, max, share) = (self.min_seconds, self.max_seconds, self.max_bad_share);
        check("min_seconds", min, "a number of at least 0", min >= 0.0)?;
        check("max_seconds", max, "a number above min_seconds", max > min)?;
        check("max_bad_share", share, "a number from 0 to 1", (0.0..=1.0).contains(&share))?;
        let (global, micro) = (self.global_batch_seconds, self.micro_batch_seconds);
        check("global_batch_seconds", global, "a positive number", global > 0.0)?;
        check("micro_batch_seconds", micro, "a positive number", micro > 0.0)?;
        for &weight in &self.weights {
            check("weights", weight, "positive numbers", weight > 0.0 && weight.is_finite())?;
        }
        let (given, entries) = (self.weights.len(), self.train.len());
        check("weights", given as f64, "as many as data.train has entries", given == 0 || given == entries)?;
        for &speed in &self.speed_perturb {
            check("speed_perturb", speed, "numbers from 0.5 to 2", (0.5..=2.0).contains(&speed))?;
        }
        check("prefetch", self.prefetch as f64, "at least 1", self.prefetch >= 1)?;
        check("threads", self.threads as f64, "from 1 to 256", (1..=256).contains(&self.threads))
    }

    /// How training steps are made in a run with `seed`.
    pub fn sampler_options(&self, seed: u64) -> SamplerOptions {
        let rate = |speed: &f64| (speed * f64::from(SAMPLE_RATE)).round() as u32;
        SamplerOptions {
            seed,
            batch_seconds: self.global_batch_seconds,
            weights: self.weights.clone(),
            rates: self.speed_perturb.iter().map(rate).collect(),
        }
    }

    /// What a micro-batch may hold.
    pub fn micro_batch(&self) -> Budget {
        Budget { seconds: self.micro_batch_seconds, tokens: self.micro_batch_tokens }
    }

    /// What to keep of a corpus.
    pub fn corpus_options(&self) -> CorpusOptions {
        CorpusOptions {
            target: self.target,
            min_seconds: self.min_seconds,
            max_seconds: self.max_seconds,
            max_bad_share: self.max_bad_share,
            verify: self.verify,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_outside_their_range_are_named() {
        let set = |text: &str| toml::from_str::<DataConfig>(text).unwrap().validate().map_err(|e| e.to_string());
        assert_eq!(set(""), Ok(()));
        for (text, message) in [
            ("min_seconds = -1.0", "data.min_seconds: expected a number of at least 0, found -1"),
            ("max_seconds = 0.1", "data.max_seconds: expected a number above min_seconds, found 0.1"),
            ("max_seconds = nan", "data.max_seconds: expected a number above min_seconds, found NaN"),
            ("max_bad_share = 1.5", "data.max_bad_share: expected a number from 0 to 1, found 1.5"),
            ("global_batch_seconds = 0.0", "data.global_batch_seconds: expected a positive number, found 0"),
            ("micro_batch_seconds = nan", "data.micro_batch_seconds: expected a positive number, found NaN"),
            ("weights = [0.0]", "data.weights: expected positive numbers, found 0"),
            ("weights = [1.0]", "data.weights: expected as many as data.train has entries, found 1"),
            ("speed_perturb = [1.0, 3.0]", "data.speed_perturb: expected numbers from 0.5 to 2, found 3"),
            ("prefetch = 0", "data.prefetch: expected at least 1, found 0"),
            ("threads = 0", "data.threads: expected from 1 to 256, found 0"),
        ] {
            assert_eq!(set(text), Err(message.to_string()));
        }
    }
}
