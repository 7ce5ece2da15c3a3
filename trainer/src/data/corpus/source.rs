//! One manifest or shard: opening it, and judging which of its utterances to keep.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{CorpusError, CorpusOptions, CorpusReport, Placement, Reject};
use crate::data::audio::{self, AudioError, SAMPLE_RATE};
use crate::data::manifest::{self, Entry};
use crate::data::sampler::Cost;
use crate::data::shard::{Index, LengthTable, Lengths, Shard, ShardError};
use crate::data::utterance::Utterance;

/// The cost of a token of a text-only utterance, in seconds of speech: an unhurried speaker's five a second.
const SECONDS_PER_TOKEN: f32 = 0.2;

/// An opened manifest or shard.
pub(super) enum Source {
    Manifest {
        path: PathBuf,
        entries: Vec<Entry>,
    },
    Shard(Box<Shard>),
    /// A shard on another node.
    Elsewhere {
        path: PathBuf,
        utterances: usize,
    },
}

/// A source as it was opened, and what is needed to judge its utterances.
pub(super) struct Opened {
    pub(super) source: Source,
    /// Which entry of the corpus it belongs to.
    pub(super) component: usize,
    /// Which node reads it.
    pub(super) node: usize,
    /// Where nodes plan for one another, they plan by this: the directory's table, and where in it the source begins.
    table: Option<(Arc<LengthTable>, usize)>,
}

/// What becomes of an utterance.
enum Verdict {
    Keep { cost: Cost, speech: bool },
    TooShort,
    TooLong,
    Bad { id: String, reason: String },
}

impl Opened {
    /// What lies at `path`, which is entry `component` of the corpus.
    pub(super) fn open(path: &Path, component: usize, placement: &Placement) -> Result<Vec<Self>, CorpusError> {
        let extension = path.extension().and_then(|e| e.to_str());
        let whole = |source| Ok(vec![Self { source, component, node: 0, table: None }]);
        if path.is_dir() {
            return Self::directory(path, component, placement);
        }
        if placement.is_node_local() {
            return Err(CorpusError::NotPlaceable { path: path.into() });
        }
        if extension == Some("safetensors") {
            whole(Source::Shard(Box::new(Shard::open(path)?)))
        } else if extension.is_some_and(|e| e == "jsonl" || e == "json") || !path.exists() {
            whole(Source::Manifest { path: path.into(), entries: manifest::read(path)? })
        } else {
            Err(CorpusError::UnknownSource { path: path.into() })
        }
    }

    fn directory(path: &Path, component: usize, placement: &Placement) -> Result<Vec<Self>, CorpusError> {
        let index = Index::read(path)?;
        let table = match placement.is_node_local() {
            true => Some(Arc::new(LengthTable::open(path, &index)?)),
            false => None,
        };
        let mut starts = vec![0];
        starts.extend(index.shards.iter().scan(0, |sum, info| {
            *sum += info.utterances as usize;
            Some(*sum)
        }));
        let opened = index.shards.par_iter().enumerate().map(|(i, info)| {
            let node = placement.node(component, i);
            let source = match node == placement.here {
                true => Source::Shard(Box::new(info.open(path)?)),
                false => Source::Elsewhere { path: path.join(&info.file), utterances: info.utterances as usize },
            };
            Ok(Self { source, component, node, table: table.clone().map(|table| (table, starts[i])) })
        });
        opened.collect::<Result<_, ShardError>>().map_err(Into::into)
    }

    /// What is kept of it; its first utterance is number `start` of the corpus.
    pub(super) fn judge(&self, start: usize, options: &CorpusOptions) -> Result<Part, CorpusError> {
        let mut part = Part::default();
        let mut take = |i: usize, verdict| part.take(&self.source, start, i, verdict);
        match &self.source {
            // Looking into recordings is worth the threads; shards run side by side anyway.
            Source::Manifest { entries, .. } => {
                let verdicts: Vec<_> = entries.par_iter().map(|entry| judge_entry(entry, options)).collect();
                verdicts.into_iter().enumerate().for_each(|(i, verdict)| take(i, verdict));
            }
            Source::Shard(shard) => {
                for i in 0..shard.len() {
                    let lengths = shard.lengths(i);
                    if self.planned(i).is_some_and(|planned| planned != lengths) {
                        return Err(ShardError::OtherLengths { path: shard.path().into(), index: i }.into());
                    }
                    let id = || Ok(shard.texts(i)?.id.into());
                    take(i, judge(lengths, options, id)?);
                }
                shard.release();
            }
            Source::Elsewhere { utterances, .. } => {
                for i in 0..*utterances {
                    let lengths = self.planned(i).unwrap_or_default();
                    take(i, judge(lengths, options, || Ok(String::new()))?);
                }
            }
        }
        Ok(part)
    }

    /// The lengths of utterance `i` as every node knows them.
    fn planned(&self, i: usize) -> Option<Lengths> {
        self.table.as_ref().map(|(table, start)| table.get(start + i))
    }
}

impl Source {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Manifest { entries, .. } => entries.len(),
            Self::Shard(shard) => shard.len(),
            Self::Elsewhere { utterances, .. } => *utterances,
        }
    }

    /// Adds to `hash` what tells its recordings from others.
    pub(super) fn fingerprint(&self, hash: &mut Sha256) {
        match self {
            Self::Shard(shard) => hash.update(format!("shard {} {:08x}\n", shard.len(), shard.fingerprint())),
            Self::Elsewhere { path, utterances } => {
                hash.update(format!("elsewhere {utterances} {:?}\n", path.file_name()));
            }
            Self::Manifest { entries, .. } => {
                let lines: Vec<String> = entries.par_iter().map(recording).collect();
                lines.iter().for_each(|line| hash.update(line));
            }
        }
    }

    /// Where utterance `i` comes from, for people.
    pub(super) fn describe(&self, i: usize) -> String {
        match self {
            Self::Manifest { path, entries } => format!("{}:{}", path.display(), entries[i].line),
            Self::Shard(shard) => format!("{}: utterance {i}", shard.path().display()),
            Self::Elsewhere { path, .. } => format!("{}: utterance {i}", path.display()),
        }
    }
}

fn judge_entry(entry: &Entry, options: &CorpusOptions) -> Verdict {
    let id = || entry.id.clone();
    let samples = match entry.samples().map(u32::try_from) {
        Ok(samples) => samples.unwrap_or(u32::MAX),
        Err(e) => return Verdict::Bad { id: id(), reason: e.to_string() },
    };
    let bytes = |text: Option<&str>| text.map_or(0, |text| text.len() as u32);
    let (text, response) = (bytes(Some(&entry.text)), bytes(entry.response.as_deref()));
    let lengths = Lengths { samples, text, response, context: bytes(entry.context.as_deref()) };
    match judge(lengths, options, || Ok(id())) {
        Ok(Verdict::Keep { speech: false, .. }) if entry.audio.is_some() => Verdict::TooShort,
        Ok(verdict) => verdict,
        Err(e) => Verdict::Bad { id: id(), reason: e.to_string() },
    }
}

/// By lengths alone, so that a corpus of many millions is judged in seconds.
fn judge(
    lengths: Lengths,
    options: &CorpusOptions,
    id: impl FnOnce() -> Result<String, ShardError>,
) -> Result<Verdict, ShardError> {
    // Of the usual scripts a token is three bytes or more: a Chinese character, a few letters.
    let tokens = |bytes: u32| bytes.div_ceil(3);
    let target = tokens(lengths.target(options.target));
    if target == 0 {
        return Ok(Verdict::Bad { id: id()?, reason: format!("it has no {}", options.target) });
    }
    if lengths.samples == 0 {
        let tokens = target + tokens(lengths.context);
        return Ok(Verdict::Keep { cost: Cost { seconds: SECONDS_PER_TOKEN * tokens as f32, tokens }, speech: false });
    }
    let seconds = f64::from(lengths.samples) / f64::from(SAMPLE_RATE);
    if seconds < options.min_seconds {
        return Ok(Verdict::TooShort);
    }
    if seconds > options.max_seconds {
        return Ok(Verdict::TooLong);
    }
    Ok(Verdict::Keep { cost: Cost { seconds: seconds as f32, tokens: target }, speech: true })
}

/// What is kept of one source.
#[derive(Default)]
pub(super) struct Part {
    pub(super) kept: Vec<u32>,
    pub(super) costs: Vec<Cost>,
    pub(super) report: CorpusReport,
}

impl Part {
    fn take(&mut self, source: &Source, start: usize, i: usize, verdict: Verdict) {
        let report = &mut self.report;
        match verdict {
            Verdict::TooShort => report.too_short += 1,
            Verdict::TooLong => report.too_long += 1,
            Verdict::Bad { id, reason } => report.bad.push(Reject { source: source.describe(i), id, reason }),
            Verdict::Keep { cost, speech } => {
                report.utterances += 1;
                report.text_only += usize::from(!speech);
                report.seconds += if speech { f64::from(cost.seconds) } else { 0.0 };
                self.kept.push((start + i) as u32);
                self.costs.push(cost);
            }
        }
    }
}

/// What tells the recording of `entry` from another; one that is not there has no length.
fn recording(entry: &Entry) -> String {
    let Some(audio) = &entry.audio else { return format!("text {}\n", entry.id) };
    let facts = std::fs::metadata(&audio.path).ok();
    let changed = facts.as_ref().and_then(|f| f.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok());
    let (len, nanos) = (facts.map_or(0, |f| f.len()), changed.map_or(0, |t| t.as_nanos()));
    format!("{} {} {len} {nanos} {} {:?}\n", entry.id, audio.path.display(), audio.offset, audio.duration)
}

impl Entry {
    /// This line with its audio decoded; more than `max_seconds` of it is an error.
    pub fn load(&self, max_seconds: Option<f64>) -> Result<Utterance<'_>, AudioError> {
        let audio = match &self.audio {
            Some(audio) => audio::load(&audio.path, &audio.clip(max_seconds))?,
            None => Vec::new(),
        };
        Ok(Utterance { audio: audio.into(), ..self.texts() })
    }

    /// This line without its audio.
    pub fn texts(&self) -> Utterance<'_> {
        Utterance {
            id: &self.id,
            text: &self.text,
            response: self.response.as_deref(),
            emotion: self.emotion,
            speaker: self.speaker.as_deref(),
            context: self.context.as_deref(),
            audio: Vec::new().into(),
        }
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
