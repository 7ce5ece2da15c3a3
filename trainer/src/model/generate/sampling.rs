//! Choosing the next token from logits, as transformers' logits processors do and in their order: repetition penalty,
//! temperature, top-k, top-p, draw.

use std::path::{Path, PathBuf};

use echat_kernels::rng;
use serde::Deserialize;

use crate::config::section;

section! {
    /// How responses are generated; what is not set comes from the decoder's `generation_config.json`.
    pub struct GenerationConfig {
        /// Draw from the distribution; false takes the likeliest token (evaluation).
        pub sample: Option<bool> = None,
        /// Divides the logits before drawing.
        pub temperature: Option<f64> = None,
        /// Draw among this many likeliest tokens; 0 does not limit.
        pub top_k: Option<usize> = None,
        /// Draw among the likeliest tokens that together have this probability; 1 does not limit.
        pub top_p: Option<f64> = None,
        /// Above 1, makes tokens already generated less likely.
        pub repetition_penalty: Option<f64> = None,
        /// Longest response in tokens.
        pub max_new_tokens: Option<usize> = None,
        /// Seed of the draws.
        pub seed: u64 = 0,
    }
}

/// What of `generation_config.json` matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GenerationDefaults {
    do_sample: Option<bool>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    repetition_penalty: Option<f64>,
    max_new_tokens: Option<usize>,
}

/// A `generation_config.json` or settings that make no sense.
#[derive(Debug, thiserror::Error)]
pub enum SamplingError {
    /// Cannot be read or parsed.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A value outside its range.
    #[error("generation.{key} = {value}: expected {expected}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
}

impl GenerationDefaults {
    /// From `dir/generation_config.json`; without one, transformers' defaults (greedy).
    pub fn read(dir: &Path) -> Result<Self, SamplingError> {
        let path = dir.join("generation_config.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|e| SamplingError::File { path, problem: format!("not a generation_config.json: {e}") }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(SamplingError::File { path, problem: format!("cannot read: {e}") }),
        }
    }
}

/// Settled settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Draw, or take the likeliest.
    pub sample: bool,
    /// Divides the logits.
    pub temperature: f64,
    /// Draw among this many; 0 does not limit.
    pub top_k: usize,
    /// Draw within this much probability.
    pub top_p: f64,
    /// Above 1 discourages repetition.
    pub repetition_penalty: f64,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// Room for a response where neither file nor configuration says.
const DEFAULT_NEW_TOKENS: usize = 256;

impl Sampling {
    /// `config` over `defaults`.
    pub fn new(config: &GenerationConfig, defaults: &GenerationDefaults) -> Result<Self, SamplingError> {
        let s = Self {
            sample: config.sample.or(defaults.do_sample).unwrap_or(false),
            temperature: config.temperature.or(defaults.temperature).unwrap_or(1.0),
            top_k: config.top_k.or(defaults.top_k).unwrap_or(50),
            top_p: config.top_p.or(defaults.top_p).unwrap_or(1.0),
            repetition_penalty: config.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
            max_new_tokens: config.max_new_tokens.or(defaults.max_new_tokens).unwrap_or(DEFAULT_NEW_TOKENS),
            seed: config.seed,
        };
        let check = |key, value: f64, expected, fits: bool| {
            if fits { Ok(()) } else { Err(SamplingError::Setting { key, value, expected }) }
        };
        check("temperature", s.temperature, "a positive number", s.temperature > 0.0)?;
        check("top_p", s.top_p, "a number in (0, 1]", s.top_p > 0.0 && s.top_p <= 1.0)?;
        check("repetition_penalty", s.repetition_penalty, "a positive number", s.repetition_penalty > 0.0)?;
        Ok(s)
    }

    /// The likeliest token each time, with no penalty: for evaluation.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { sample: false, temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, max_new_tokens, seed: 0 }
    }

    /// The next token after `generated`, for the sequence `sequence`.
    pub fn next(&self, logits: &mut [f32], generated: &[u32], sequence: u64) -> u32 {
        self.penalise(logits, generated);
        if !self.sample {
            return crate::model::echat::argmax(logits) as u32;
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = f64::from(logits[order[0] as usize]);
        let mut weights: Vec<f64> =
            order.iter().map(|&i| ((f64::from(logits[i as usize]) - top) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut before = 0.0;
        let kept = weights.iter().take_while(|w| {
            let keep = before < self.top_p * total;
            before += **w;
            keep
        });
        let kept = kept.count().max(1);
        weights.truncate(kept);
        let key = rng::key(rng::key(rng::key(rng::site("generate"), self.seed), sequence), generated.len() as u64);
        let mut left = rng::uniform(key) * weights.iter().sum::<f64>();
        for (i, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return order[i];
            }
        }
        order[kept - 1]
    }

    /// Keskar et al. 2019: positive logits of generated tokens are divided, negative ones multiplied.
    fn penalise(&self, logits: &mut [f32], generated: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let penalty = self.repetition_penalty as f32;
        let mut seen: Vec<u32> = generated.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sampling(sample: bool) -> Sampling {
        Sampling { sample, ..Sampling::greedy(10) }
    }

    #[test]
    fn greedy_takes_the_first_of_the_greatest() {
        assert_eq!(sampling(false).next(&mut [0.0, 3.0, 3.0, -1.0], &[], 0), 1);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits_once() {
        let s = Sampling { repetition_penalty: 2.0, ..sampling(false) };
        let mut logits = [4.0, 3.0, -1.0];
        assert_eq!(s.next(&mut logits, &[0, 2, 0], 0), 1);
        assert_eq!(logits, [2.0, 3.0, -2.0]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_limits() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let share = |s: Sampling| {
            let mut counts = [0f64; 4];
            for i in 0..20_000 {
                counts[s.next(&mut logits.clone(), &[], i) as usize] += 1.0 / 20_000.0;
            }
            counts
        };
        let all = share(sampling(true));
        for (got, want) in all.iter().zip([0.5, 0.3, 0.15, 0.05]) {
            assert!((got - want).abs() < 0.015, "{all:?}");
        }
        let top2 = share(Sampling { top_k: 2, ..sampling(true) });
        assert!((top2[0] - 0.625).abs() < 0.015 && top2[2] == 0.0, "{top2:?}");
        // 0.5 + 0.3 reach 0.75; the third is not needed.
        let nucleus = share(Sampling { top_p: 0.75, ..sampling(true) });
        assert!((nucleus[1] - 0.375).abs() < 0.015 && nucleus[2] == 0.0, "{nucleus:?}");
        let cold = share(Sampling { temperature: 0.01, ..sampling(true) });
        assert!(cold[0] > 0.999, "{cold:?}");
    }

    #[test]
    fn a_draw_is_a_function_of_seed_sequence_and_position() {
        let logits = [0.0f32; 64];
        let draw = |seed, sequence, n: usize| {
            Sampling { seed, ..sampling(true) }.next(&mut logits.clone(), &vec![0; n], sequence)
        };
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        let all: std::collections::BTreeSet<u32> =
            (0..16).flat_map(|i| [draw(i, 0, 0), draw(0, i, 0), draw(0, 0, i as usize)]).collect();
        assert!(all.len() > 8, "{all:?}");
    }

    #[test]
    fn defaults_come_from_the_file_and_settings_override_them() {
        let dir = tempfile::tempdir().unwrap();
        let chat = r#"{"do_sample": true, "temperature": 0.3, "top_k": 5, "top_p": 0.85, "repetition_penalty": 1.05,
            "max_new_tokens": 2048, "user_token_id": 195}"#;
        std::fs::write(dir.path().join("generation_config.json"), chat).unwrap();
        let defaults = GenerationDefaults::read(dir.path()).unwrap();
        let config = GenerationConfig { top_k: Some(1), ..GenerationConfig::default() };
        let s = Sampling::new(&config, &defaults).unwrap();
        assert_eq!((s.sample, s.temperature, s.top_k, s.top_p, s.max_new_tokens), (true, 0.3, 1, 0.85, 2048));
        std::fs::write(dir.path().join("generation_config.json"), "{").unwrap();
        assert!(GenerationDefaults::read(dir.path()).is_err());
        let wrong = GenerationConfig { temperature: Some(0.0), ..GenerationConfig::default() };
        assert!(Sampling::new(&wrong, &GenerationDefaults::default()).is_err());
    }
}
