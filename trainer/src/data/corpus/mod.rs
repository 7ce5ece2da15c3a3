//! Manifests and shards, opened as one indexed corpus.

mod source;

use std::path::PathBuf;

use rayon::prelude::*;

use super::Target;
use super::audio::AudioError;
use super::emotion::Emotion;
use super::manifest::ManifestError;
use super::shard::ShardError;
use super::utterance::Utterance;
use source::{Part, Source};

/// What to keep of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusOptions {
    /// What the decoder learns to write; an utterance without it is bad.
    pub target: Target,
    /// Shorter recordings are left out.
    pub min_seconds: f64,
    /// Longer recordings are left out.
    pub max_seconds: f64,
    /// More than this share of bad utterances is an error.
    pub max_bad_share: f64,
    /// Whether to read every byte of every shard now and compare it with its checksum.
    pub verify: bool,
}

/// Why a corpus, or an utterance of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A manifest that cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A shard or shard directory that cannot be read.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A recording that cannot be read.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// A path that is nothing we know.
    #[error(
        "{path}: not a corpus: expected a JSONL manifest, a directory made by `echat prepare`, or a shard (.safetensors)"
    )]
    UnknownSource {
        /// The path.
        path: PathBuf,
    },
    /// Nothing is left.
    #[error("{what}: no utterance is left of {total} ({report})")]
    Empty {
        /// The sources.
        what: String,
        /// How many there were.
        total: usize,
        /// What became of them.
        report: String,
    },
    /// Too many cannot be used.
    #[error(
        "{bad} of {total} utterances cannot be used, more than the allowed share of {share} (max_bad_share); one is {example}"
    )]
    TooManyBad {
        /// How many.
        bad: usize,
        /// Of how many.
        total: usize,
        /// What is allowed.
        share: f64,
        /// One of them.
        example: String,
    },
    /// More than an index can hold.
    #[error("the corpus has {total} utterances, more than the supported 4294967295")]
    TooMany {
        /// How many.
        total: usize,
    },
}

/// An utterance that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reject {
    /// File and line of a manifest, or file and number of a shard.
    pub source: String,
    /// The utterance's id, if known.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What opening a corpus found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CorpusReport {
    /// Utterances kept.
    pub utterances: usize,
    /// Seconds of speech kept.
    pub seconds: f64,
    /// Of the utterances kept, those without speech.
    pub text_only: usize,
    /// Left out for being shorter than `min_seconds`.
    pub too_short: usize,
    /// Left out for being longer than `max_seconds`.
    pub too_long: usize,
    /// Left out because they cannot be used.
    pub bad: Vec<Reject>,
}

impl CorpusReport {
    /// One line for people.
    pub fn summary(&self) -> String {
        let mut text = format!("{} utterances, {:.2} h", self.utterances, self.seconds / 3600.0);
        for (count, what) in [
            (self.text_only, "text-only"),
            (self.too_short, "left out as too short"),
            (self.too_long, "left out as too long"),
            (self.bad.len(), "left out as unusable"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text
    }
}

/// An indexed corpus: the concatenation of its sources in the order given, less what is left out.
pub struct Corpus {
    sources: Vec<Source>,
    /// How many utterances lie in the sources before each, and in all.
    starts: Vec<usize>,
    /// For each utterance kept, its number among all.
    kept: Vec<u32>,
    costs: Vec<f32>,
    report: CorpusReport,
    max_bad_share: f64,
}

impl Corpus {
    /// Opens `paths`: JSONL manifests, directories made by `echat prepare`, single shards. The length of a recording in a
    /// manifest is its `duration`, or read from its header. In parallel over files; the result depends on `paths` and
    /// what they hold alone.
    pub fn open(paths: &[PathBuf], options: &CorpusOptions) -> Result<Self, CorpusError> {
        let mut sources = Vec::new();
        for path in paths {
            Source::open(path, &mut sources)?;
        }
        if options.verify {
            sources.par_iter().try_for_each(|source| match source {
                Source::Shard(shard) => shard.verify(),
                Source::Manifest { .. } => Ok(()),
            })?;
        }
        let mut starts = vec![0];
        for source in &sources {
            starts.push(starts[starts.len() - 1] + source.len());
        }
        let total = starts[sources.len()];
        if u32::try_from(total).is_err() {
            return Err(CorpusError::TooMany { total });
        }
        let parts: Vec<Part> = sources
            .par_iter()
            .zip(&starts[..sources.len()])
            .map(|(source, &start)| Part::of(source, start, options))
            .collect::<Result<_, CorpusError>>()?;
        let mut corpus = Self {
            sources,
            starts,
            kept: Vec::new(),
            costs: Vec::new(),
            report: CorpusReport::default(),
            max_bad_share: options.max_bad_share,
        };
        parts.into_iter().for_each(|part| corpus.append(part));
        corpus.check(paths)?;
        Ok(corpus)
    }

    fn append(&mut self, part: Part) {
        self.kept.extend(part.kept);
        self.costs.extend(part.costs);
        let report = &mut self.report;
        report.utterances += part.report.utterances;
        report.seconds += part.report.seconds;
        report.text_only += part.report.text_only;
        report.too_short += part.report.too_short;
        report.too_long += part.report.too_long;
        report.bad.extend(part.report.bad);
    }

    fn check(&self, paths: &[PathBuf]) -> Result<(), CorpusError> {
        if let Some(first) = self.report.bad.first() {
            self.check_bad(0, first)?;
        }
        if self.kept.is_empty() {
            let what = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(CorpusError::Empty { what, total: self.total(), report: self.report.summary() });
        }
        Ok(())
    }

    fn total(&self) -> usize {
        self.starts[self.sources.len()]
    }

    /// Errors if, with `more` found since opening, too many utterances cannot be used; `example` is one of them.
    pub fn check_bad(&self, more: usize, example: &Reject) -> Result<(), CorpusError> {
        let (bad, total, share) = (self.report.bad.len() + more, self.total(), self.max_bad_share);
        if bad as f64 <= share * total as f64 {
            return Ok(());
        }
        let example = format!("{}: {}", example.source, example.reason);
        Err(CorpusError::TooManyBad { bad, total, share, example })
    }

    /// The number of utterances kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none; never so for an opened corpus.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What each utterance costs to train on, in seconds: its length, or for a text-only one a nominal 0.2 s a character.
    pub fn costs(&self) -> &[f32] {
        &self.costs
    }

    /// What was kept and what was left out.
    pub fn report(&self) -> &CorpusReport {
        &self.report
    }

    fn locate(&self, index: usize) -> (&Source, usize) {
        let number = self.kept[index] as usize;
        let source = self.starts.partition_point(|&start| start <= number) - 1;
        (&self.sources[source], number - self.starts[source])
    }

    /// The emotion of utterance `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Corpus::len`]; so does [`Corpus::get`].
    pub fn emotion(&self, index: usize) -> Option<Emotion> {
        match self.locate(index) {
            (Source::Manifest { entries, .. }, i) => entries[i].emotion,
            (Source::Shard(shard), i) => shard.emotion(i),
        }
    }

    /// Utterance `index`, from the map or decoded. [`CorpusError::Audio`] says that this one cannot be used; other
    /// errors are the corpus's.
    pub fn get(&self, index: usize) -> Result<Utterance<'_>, CorpusError> {
        match self.locate(index) {
            (Source::Manifest { entries, .. }, i) => Ok(entries[i].load(None)?),
            (Source::Shard(shard), i) => Ok(shard.get(i)?),
        }
    }

    /// Utterance `index` as one that cannot be used.
    pub fn reject(&self, index: usize, reason: String) -> Reject {
        let id = match self.locate(index) {
            (Source::Manifest { entries, .. }, i) => entries[i].id.clone(),
            (Source::Shard(shard), i) => shard.texts(i).map_or_else(|_| String::new(), |u| u.id.into()),
        };
        Reject { source: self.describe(index), id, reason }
    }

    /// Where utterance `index` comes from, for people.
    pub fn describe(&self, index: usize) -> String {
        let (source, i) = self.locate(index);
        source.describe(i)
    }
}
