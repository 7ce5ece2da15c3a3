//! Manifests and shards, opened as one indexed corpus.

mod placement;
mod source;

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::Target;
use super::audio::AudioError;
use super::manifest::ManifestError;
use super::sampler::{Cost, Group};
use super::shard::ShardError;
use super::utterance::Utterance;
use crate::data::DataConfig;
use crate::dist::Collective;
use source::{Opened, Part, Source};

pub use placement::{Placement, PlacementKind, Sight};

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
    /// A path of which a node cannot have a part.
    #[error("{path}: data.placement = \"node_local\" takes directories made by `echat prepare`, not single files")]
    NotPlaceable {
        /// The path.
        path: PathBuf,
    },
    /// A shard that no node has.
    #[error("{path}: on none of the {nodes} nodes ({hosts}): copy it to one of them")]
    Nowhere {
        /// The shard.
        path: PathBuf,
        /// How many nodes there are.
        nodes: usize,
        /// Their names.
        hosts: String,
    },
    /// An index that differs from node to node.
    #[error("{path}: not the same on {one} and {other}: copy index.json and lengths.safetensors to every node")]
    OtherIndex {
        /// The directory.
        path: PathBuf,
        /// A node.
        one: String,
        /// Another.
        other: String,
    },
    /// An utterance of a shard on another node.
    #[error("{utterance}: on another node than this rank's")]
    Elsewhere {
        /// The utterance.
        utterance: String,
    },
    /// Nodes could not be asked what they have.
    #[error(transparent)]
    Dist(#[from] crate::dist::Error),
    /// What a node says it has is no message of this program.
    #[error("data.placement: ranks do not understand one another: {0}")]
    Sight(#[from] serde_json::Error),
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
    fn add(&mut self, part: &Self) {
        self.utterances += part.utterances;
        self.seconds += part.seconds;
        self.text_only += part.text_only;
        self.too_short += part.too_short;
        self.too_long += part.too_long;
        self.bad.extend(part.bad.iter().cloned());
    }

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
    costs: Arc<[Cost]>,
    groups: Vec<Group>,
    placement: Placement,
    report: CorpusReport,
    max_bad_share: f64,
}

impl Corpus {
    /// Opens `paths`, all of which lies here: see [`Corpus::open_placed`].
    pub fn open(paths: &[PathBuf], options: &CorpusOptions) -> Result<Self, CorpusError> {
        Self::open_placed(paths, options, Placement::shared(1))
    }

    /// Opens `paths` as `data` says for the ranks of `collective`, each of which calls it.
    pub fn open_for(
        paths: &[PathBuf],
        data: &DataConfig,
        collective: &mut dyn Collective,
    ) -> Result<Self, CorpusError> {
        let placement = Placement::find(data.placement, paths, collective)?;
        Self::open_placed(paths, &data.corpus_options(), placement)
    }

    /// Opens `paths`: JSONL manifests, directories made by `echat prepare`, single shards. The length of a recording in a
    /// manifest is its `duration`, or read from its header. In parallel over files; the result depends on `paths`,
    /// what they hold and `placement` alone, and what is planned by is the same on all nodes.
    pub fn open_placed(paths: &[PathBuf], options: &CorpusOptions, placement: Placement) -> Result<Self, CorpusError> {
        let mut opened = Vec::new();
        for (component, path) in paths.iter().enumerate() {
            opened.extend(Opened::open(path, component, &placement)?);
        }
        if options.verify {
            opened.par_iter().try_for_each(|opened| match &opened.source {
                Source::Shard(shard) => shard.verify(),
                _ => Ok(()),
            })?;
        }
        let mut starts = vec![0];
        starts.extend(opened.iter().scan(0, |sum, opened| {
            *sum += opened.source.len();
            Some(*sum)
        }));
        let total = starts[opened.len()];
        if u32::try_from(total).is_err() {
            return Err(CorpusError::TooMany { total });
        }
        let parts: Vec<Part> = opened
            .par_iter()
            .zip(&starts[..opened.len()])
            .map(|(opened, &start)| opened.judge(start, options))
            .collect::<Result<_, CorpusError>>()?;
        let groups = groups(&opened, &parts);
        let mut report = CorpusReport::default();
        parts.iter().for_each(|part| report.add(&part.report));
        let corpus = Self {
            starts,
            kept: parts.iter().flat_map(|part| part.kept.iter().copied()).collect(),
            costs: parts.iter().flat_map(|part| part.costs.iter().copied()).collect::<Vec<_>>().into(),
            groups,
            placement,
            report,
            max_bad_share: options.max_bad_share,
            sources: opened.into_iter().map(|opened| opened.source).collect(),
        };
        corpus.check(paths)?;
        Ok(corpus)
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

    /// What each utterance costs to train on.
    pub fn costs(&self) -> &Arc<[Cost]> {
        &self.costs
    }

    /// The utterances by entry of the corpus and node.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Which node has what.
    pub fn placement(&self) -> &Placement {
        &self.placement
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

    /// Utterance `index`, from the map or decoded. [`CorpusError::Audio`] says that this one cannot be used; other
    /// errors are the corpus's.
    ///
    /// # Panics
    /// If `index` is not below [`Corpus::len`].
    pub fn get(&self, index: usize) -> Result<Utterance<'_>, CorpusError> {
        match self.locate(index) {
            (Source::Manifest { entries, .. }, i) => Ok(entries[i].load(None)?),
            (Source::Shard(shard), i) => Ok(shard.get(i)?),
            (source @ Source::Elsewhere { .. }, i) => Err(CorpusError::Elsewhere { utterance: source.describe(i) }),
        }
    }

    /// Utterance `index` without its audio.
    pub fn texts(&self, index: usize) -> Result<Utterance<'_>, CorpusError> {
        match self.locate(index) {
            (Source::Manifest { entries, .. }, i) => Ok(entries[i].texts()),
            (Source::Shard(shard), i) => Ok(shard.texts(i)?),
            (source @ Source::Elsewhere { .. }, i) => Err(CorpusError::Elsewhere { utterance: source.describe(i) }),
        }
    }

    /// Which recordings these are: a hash of what was kept and of the checksums of shards; recordings of manifests count by their files' names, lengths
    /// and times.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        self.sources.iter().for_each(|source| source.fingerprint(&mut hash));
        self.kept.iter().for_each(|number| hash.update(number.to_le_bytes()));
        hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Has the system read the audio of utterance `index` soon, if it lies in a shard here.
    pub fn will_need(&self, index: usize) {
        if let (Source::Shard(shard), i) = self.locate(index) {
            shard.will_need(i);
        }
    }

    /// Utterance `index` as one that cannot be used.
    pub fn reject(&self, index: usize, reason: String) -> Reject {
        let id = match self.locate(index) {
            (Source::Manifest { entries, .. }, i) => entries[i].id.clone(),
            (Source::Shard(shard), i) => shard.texts(i).map_or_else(|_| String::new(), |u| u.id.into()),
            (Source::Elsewhere { .. }, _) => String::new(),
        };
        Reject { source: self.describe(index), id, reason }
    }

    /// Where utterance `index` comes from, for people.
    pub fn describe(&self, index: usize) -> String {
        let (source, i) = self.locate(index);
        source.describe(i)
    }
}

/// What is kept of each source, by entry of the corpus and node.
fn groups(opened: &[Opened], parts: &[Part]) -> Vec<Group> {
    let (mut groups, mut next) = (Vec::<Group>::new(), 0);
    for (opened, part) in opened.iter().zip(parts) {
        let (component, node) = (opened.component, opened.node);
        let range = next..next + part.kept.len() as u32;
        next = range.end;
        let found = groups.iter().position(|group| (group.component, group.node) == (component, node));
        let at = found.unwrap_or(groups.len());
        if found.is_none() {
            groups.push(Group { component, node, ranges: Vec::new() });
        }
        match groups[at].ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => groups[at].ranges.push(range),
        }
    }
    groups
}
