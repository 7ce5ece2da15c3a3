//! Loading the builder's configuration, and values of the right type that make no sense.

use super::config::{
    AzureConfig, Backend, ChatConfig, CommandConfig, LimitsConfig, SpeechConfig, SplitConfig, SynthConfig, TextsConfig,
};
use super::error::SynthError;
use crate::config::{Loaded, load};
use crate::data::emotion::Emotion;
use crate::data::prepare::PrepareOptions;
use std::collections::BTreeMap;
use std::path::Path;

/// A key and what is wrong with its value.
type Problem = (String, String);

fn wrong(key: &str, problem: impl Into<String>) -> Result<(), Problem> {
    Err((key.to_string(), problem.into()))
}

impl SynthConfig {
    /// Reads and checks a file with its `--set` arguments.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, SynthError> {
        let loaded: Loaded<Self> = load(path, sets)?;
        loaded.config.check().map_err(|(key, problem)| loaded.invalid(&key, problem))?;
        Ok(loaded.config)
    }

    /// How the shards are made: of all recordings, as each was checked when it was made.
    pub fn prepare_options(&self) -> PrepareOptions {
        let shard_bytes = self.shards.shard_mib << 20;
        PrepareOptions { min_seconds: 0.0, max_seconds: f64::INFINITY, max_bad_share: 0.0, shard_bytes, retry: false }
    }

    /// The first value that makes no sense.
    fn check(&self) -> Result<(), Problem> {
        self.texts.check(self.split.is_some())?;
        self.chat.iter().try_for_each(ChatConfig::check)?;
        self.speech.check()?;
        self.split.iter().try_for_each(SplitConfig::check)?;
        self.limits.check()?;
        let prices = &self.prices;
        let all = [prices.prompt_per_1k_tokens, prices.response_per_1k_tokens, prices.speech_per_1m_characters];
        if all.iter().chain([&prices.response_tokens]).any(|price| *price < 0.0) {
            return wrong("prices", "must not be negative");
        }
        if !(1..=65_536).contains(&self.shards.shard_mib) {
            return wrong("shards.shard_mib", "must be from 1 to 65536");
        }
        Ok(())
    }
}

impl TextsConfig {
    fn check(&self, split: bool) -> Result<(), Problem> {
        match (self.files.is_empty(), self.parts.is_empty()) {
            (true, true) => {
                return wrong("texts.files", "name the files of the texts, here or by part in `texts.parts`");
            }
            (false, false) => return wrong("texts.parts", "give either `files` or `parts`"),
            (true, false) if split => return wrong("split", "`texts.parts` says already how the corpus is divided"),
            (false, true) if !split => {
                return wrong("texts.files", "say how to divide them in [split], or use `texts.parts`");
            }
            _ => {}
        }
        self.parts.keys().try_for_each(|name| part_name("texts.parts", name))?;
        match self.emotions.iter().find(|(_, name)| name.parse::<Emotion>().is_err()) {
            Some((label, name)) => {
                wrong(&format!("texts.emotions.{label}"), format!("`{name}` is none of {}", names()))
            }
            None => Ok(()),
        }
    }
}

impl ChatConfig {
    fn check(&self) -> Result<(), Problem> {
        url("chat.base_url", &self.base_url)?;
        if !self.user.contains("{text}") && !self.system.contains("{text}") {
            return wrong("chat.user", "must contain {text}");
        }
        rate("chat", self.requests_per_minute)?;
        workers("chat", self.concurrency, self.timeout_seconds)
    }
}

impl SpeechConfig {
    fn check(&self) -> Result<(), Problem> {
        workers("speech", self.concurrency, self.timeout_seconds)?;
        let (min, max) = (self.min_seconds_per_character, self.max_seconds_per_character);
        if !(min >= 0.0 && max > min) {
            return wrong(
                "speech.max_seconds_per_character",
                "must be above `min_seconds_per_character`, and that not negative",
            );
        }
        match self.backend {
            Backend::Azure => self.azure.check(),
            Backend::Command => self.command.check(),
        }
    }
}

impl AzureConfig {
    fn check(&self) -> Result<(), Problem> {
        url("speech.azure.endpoint", &self.endpoint)?;
        if !(self.output_format.starts_with("riff-") && self.output_format.ends_with("pcm")
            || self.output_format.ends_with("mp3"))
        {
            return wrong("speech.azure.output_format", "must be `riff-…-pcm` or `…-mp3`, which can be decoded");
        }
        if self.voices.is_empty() {
            return wrong("speech.azure.voices", "name at least one");
        }
        rate("speech.azure", self.requests_per_minute)?;
        emotions("speech.azure.styles", &self.styles)
    }
}

impl CommandConfig {
    fn check(&self) -> Result<(), Problem> {
        if self.run.first().is_none_or(String::is_empty) {
            return wrong("speech.command.run", "name a program and its arguments");
        }
        let uses = |name: &str| self.run.iter().any(|argument| argument.contains(name));
        let complete = uses("{text}") && uses("{out}");
        if !self.persistent && !complete {
            return wrong("speech.command.run", "must contain {text} and {out}");
        }
        emotions("speech.command.styles", &self.styles)
    }
}

impl SplitConfig {
    fn check(&self) -> Result<(), Problem> {
        if self.counts.is_empty() == self.shares.is_empty() {
            return wrong("split", "give either `counts` or `shares`");
        }
        let parts: Vec<&String> = self.counts.keys().chain(self.shares.keys()).collect();
        if parts.contains(&&self.rest) {
            return wrong("split.rest", format!("`{}` gets what is left and has no size of its own", self.rest));
        }
        let shares = self.shares.values();
        if !(shares.clone().all(|share| (0.0..=1.0).contains(share)) && shares.sum::<f64>() <= 1.0 + 1e-9) {
            return wrong("split.shares", "must lie between 0 and 1 and sum to at most 1");
        }
        parts.into_iter().chain([&self.rest]).try_for_each(|name| part_name("split", name))
    }
}

impl LimitsConfig {
    fn check(&self) -> Result<(), Problem> {
        if self.tries == 0 {
            return wrong("limits.tries", "must be at least 1");
        }
        let seconds = [
            ("backoff_seconds", self.backoff_seconds),
            ("max_backoff_seconds", self.max_backoff_seconds),
            ("max_retry_after_seconds", self.max_retry_after_seconds),
        ];
        if let Some((key, _)) = seconds.into_iter().find(|(_, value)| !(0.0..=86_400.0).contains(value)) {
            return wrong(&format!("limits.{key}"), "must be from 0 to 86400");
        }
        match (0.0..=1.0).contains(&self.max_bad_share) {
            true => Ok(()),
            false => wrong("limits.max_bad_share", "must be from 0 to 1"),
        }
    }
}

fn names() -> String {
    Emotion::ALL.map(Emotion::name).join(", ")
}

fn emotions(key: &str, styles: &BTreeMap<String, String>) -> Result<(), Problem> {
    // By their own names alone: styles are looked up by these.
    match styles.keys().find(|key| !Emotion::ALL.iter().any(|emotion| emotion.name() == *key)) {
        Some(name) => wrong(&format!("{key}.{name}"), format!("the emotions are {}", names())),
        None => Ok(()),
    }
}

fn url(key: &str, url: &str) -> Result<(), Problem> {
    match url.starts_with("http://") || url.starts_with("https://") {
        true => Ok(()),
        false => wrong(key, format!("`{url}` must begin with https:// or http://")),
    }
}

fn workers(section: &str, concurrency: usize, timeout_seconds: f64) -> Result<(), Problem> {
    if !(1..=256).contains(&concurrency) {
        return wrong(&format!("{section}.concurrency"), "must be from 1 to 256");
    }
    match (0.0..=86_400.0).contains(&timeout_seconds) && timeout_seconds > 0.0 {
        true => Ok(()),
        false => wrong(&format!("{section}.timeout_seconds"), "must be above 0 and at most 86400"),
    }
}

fn rate(section: &str, requests_per_minute: f64) -> Result<(), Problem> {
    match (0.0..=1e6).contains(&requests_per_minute) {
        true => Ok(()),
        false => wrong(&format!("{section}.requests_per_minute"), "must be from 0 to 1000000; 0 is no limit"),
    }
}

/// A part is a directory and the stem of a manifest.
fn part_name(key: &str, name: &str) -> Result<(), Problem> {
    let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    match fits && !["wav", "tmp", "journal", "rejects"].contains(&name) {
        true => Ok(()),
        false => wrong(
            key,
            format!(
                "`{name}` cannot be the name of a part: use letters, digits, _ and -, not wav, tmp, journal, rejects"
            ),
        ),
    }
}
