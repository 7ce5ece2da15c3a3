//! One manifest or shard: opening it, and judging which of its utterances to keep.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::{CorpusError, CorpusOptions, CorpusReport, Reject};
use crate::data::audio::{self, AudioError, SAMPLE_RATE};
use crate::data::manifest::{self, Entry};
use crate::data::shard::{Index, Shard, ShardError};
use crate::data::utterance::Utterance;

/// The cost of a character of a text-only utterance, in seconds of speech: an unhurried speaker's five a second.
const SECONDS_PER_CHARACTER: f32 = 0.2;

/// An opened manifest or shard.
pub(super) enum Source {
    Manifest { path: PathBuf, entries: Vec<Entry> },
    Shard(Box<Shard>),
}

/// What becomes of an utterance.
enum Verdict {
    Speech { samples: u64 },
    TextOnly { characters: usize },
    Bad { id: String, reason: String },
}

impl Source {
    /// Opens what lies at `path` and appends it to `sources`.
    pub(super) fn open(path: &Path, sources: &mut Vec<Self>) -> Result<(), CorpusError> {
        let extension = path.extension().and_then(|e| e.to_str());
        if path.is_dir() {
            let index = Index::read(path)?;
            let shards: Vec<Shard> =
                index.shards.par_iter().map(|info| info.open(path)).collect::<Result<_, ShardError>>()?;
            sources.extend(shards.into_iter().map(|shard| Self::Shard(Box::new(shard))));
        } else if extension == Some("safetensors") {
            sources.push(Self::Shard(Box::new(Shard::open(path)?)));
        } else if extension.is_some_and(|e| e == "jsonl" || e == "json") || !path.exists() {
            sources.push(Self::Manifest { path: path.into(), entries: manifest::read(path)? });
        } else {
            return Err(CorpusError::UnknownSource { path: path.into() });
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Manifest { entries, .. } => entries.len(),
            Self::Shard(shard) => shard.len(),
        }
    }

    /// Where utterance `i` comes from, for people.
    pub(super) fn describe(&self, i: usize) -> String {
        match self {
            Self::Manifest { path, entries } => format!("{}:{}", path.display(), entries[i].line),
            Self::Shard(shard) => format!("{}: utterance {i}", shard.path().display()),
        }
    }
}

fn judge_entry(entry: &Entry, options: &CorpusOptions) -> Verdict {
    let bad = |reason: String| Verdict::Bad { id: entry.id.clone(), reason };
    let target = options.target.choose(&entry.text, entry.response.as_deref());
    if target.is_empty() {
        return bad(format!("it has no {}", options.target));
    }
    let Some(_) = &entry.audio else { return text_only(target, entry.context.as_deref()) };
    entry.samples().map_or_else(|e| bad(e.to_string()), |samples| Verdict::Speech { samples })
}

/// Looks at offsets alone where there is speech: a corpus of many millions is judged in seconds.
fn judge_shard(shard: &Shard, i: usize, options: &CorpusOptions) -> Result<Verdict, ShardError> {
    if !shard.has_target(i, options.target) {
        let reason = format!("it has no {}", options.target);
        return Ok(Verdict::Bad { id: shard.texts(i)?.id.into(), reason });
    }
    match shard.samples(i) {
        0 => {
            let texts = shard.texts(i)?;
            Ok(text_only(options.target.choose(texts.text, texts.response), texts.context))
        }
        samples => Ok(Verdict::Speech { samples: samples as u64 }),
    }
}

fn text_only(target: &str, context: Option<&str>) -> Verdict {
    let characters = |text: &str| text.chars().count();
    Verdict::TextOnly { characters: characters(target) + context.map_or(0, characters) }
}

/// What is kept of one source.
#[derive(Default)]
pub(super) struct Part {
    pub(super) kept: Vec<u32>,
    pub(super) costs: Vec<f32>,
    pub(super) report: CorpusReport,
}

impl Part {
    /// Judges `source`, whose first utterance is number `start` of the corpus.
    pub(super) fn of(source: &Source, start: usize, options: &CorpusOptions) -> Result<Self, CorpusError> {
        let mut part = Self::default();
        match source {
            // Looking into recordings is worth the threads; shards run side by side anyway.
            Source::Manifest { entries, .. } => {
                let verdicts: Vec<_> = entries.par_iter().map(|entry| judge_entry(entry, options)).collect();
                verdicts.into_iter().enumerate().for_each(|(i, verdict)| part.take(source, start, i, verdict, options));
            }
            Source::Shard(shard) => {
                for i in 0..shard.len() {
                    part.take(source, start, i, judge_shard(shard, i, options)?, options);
                }
            }
        }
        Ok(part)
    }

    fn take(&mut self, source: &Source, start: usize, i: usize, verdict: Verdict, options: &CorpusOptions) {
        let report = &mut self.report;
        let cost = match verdict {
            Verdict::Speech { samples } => {
                let seconds = samples as f64 / f64::from(SAMPLE_RATE);
                if seconds < options.min_seconds {
                    report.too_short += 1;
                    return;
                }
                if seconds > options.max_seconds {
                    report.too_long += 1;
                    return;
                }
                report.seconds += seconds;
                seconds as f32
            }
            Verdict::TextOnly { characters } => {
                report.text_only += 1;
                characters as f32 * SECONDS_PER_CHARACTER
            }
            Verdict::Bad { id, reason } => {
                report.bad.push(Reject { source: source.describe(i), id, reason });
                return;
            }
        };
        report.utterances += 1;
        self.kept.push((start + i) as u32);
        self.costs.push(cost);
    }
}

impl Entry {
    /// This line with its audio decoded; more than `max_seconds` of it is an error.
    pub fn load(&self, max_seconds: Option<f64>) -> Result<Utterance<'_>, AudioError> {
        let audio = match &self.audio {
            Some(audio) => audio::load(&audio.path, &audio.clip(max_seconds))?,
            None => Vec::new(),
        };
        Ok(Utterance {
            id: &self.id,
            text: &self.text,
            response: self.response.as_deref(),
            emotion: self.emotion,
            speaker: self.speaker.as_deref(),
            context: self.context.as_deref(),
            audio: audio.into(),
        })
    }

    /// Its number of 16 kHz samples, at the least cost; 0 if text-only.
    fn samples(&self) -> Result<u64, AudioError> {
        let Some(audio) = &self.audio else { return Ok(0) };
        let Some(duration) = audio.duration else { return audio::probe(&audio.path, &audio.clip(None)) };
        let path = audio.path.clone();
        match std::fs::metadata(&path) {
            Ok(facts) if facts.len() == 0 => Err(AudioError::EmptyFile { path }),
            Ok(_) => Ok((duration * f64::from(SAMPLE_RATE)).round() as u64),
            Err(source) => Err(AudioError::Unreadable { path, source: Arc::new(source) }),
        }
    }
}
