//! Shard directories as a whole: verifying, counting, finding and dividing what they hold.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::emotion::Emotion;
use super::shard::{Index, Shard, ShardError, ShardWriter};
use super::split::{self, SplitError};
use super::stats::Stats;
use super::utterance::Utterance;

/// Opened shards, in order.
pub struct Shards(Vec<Shard>);

/// Why shards cannot be divided.
#[derive(Debug, thiserror::Error)]
pub enum DivideError {
    /// One that cannot be read or written.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Sizes that do not fit.
    #[error(transparent)]
    Sizes(#[from] SplitError),
    /// A part that would be empty.
    #[error("the part `{part}` would have no utterance")]
    EmptyPart {
        /// Its name.
        part: String,
    },
}

/// How large a part shall be.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// Utterances of each part; what is left over is in none.
    Counts(Vec<usize>),
    /// Share of each part.
    Shares(Vec<f64>),
}

/// One shard's state.
#[derive(Debug)]
pub struct Verified {
    /// The file, or the directory if it has no readable index.
    pub path: PathBuf,
    /// Bytes read; an error if they are not what was written.
    pub result: Result<u64, ShardError>,
}

/// Reads every byte of the shards in `paths` (directories or files), on all threads, and compares it with its checksum. `progress` is
/// called after each shard.
pub fn verify(paths: &[PathBuf], progress: &(dyn Fn(&Verified) + Sync)) -> Vec<Verified> {
    let mut files = Vec::new();
    let mut verified = Vec::new();
    for path in paths {
        match files_of(path) {
            Ok(found) => files.extend(found),
            Err(error) => verified.push(Verified { path: path.clone(), result: Err(error) }),
        }
    }
    verified.par_extend(files.into_par_iter().map(|(path, expected)| {
        let result = check(&path, expected);
        let verified = Verified { path, result };
        progress(&verified);
        verified
    }));
    verified
}

/// How many shards `paths` name, as far as their indexes can be read.
pub fn count(paths: &[PathBuf]) -> usize {
    paths.iter().map(|path| files_of(path).map_or(0, |files| files.len())).sum()
}

/// The shards at `path`, each with the utterances the index says it has.
fn files_of(path: &Path) -> Result<Vec<(PathBuf, Option<u64>)>, ShardError> {
    if !path.is_dir() {
        return Ok(vec![(path.into(), None)]);
    }
    let index = Index::read(path)?;
    Ok(index.shards.iter().map(|info| (path.join(&info.file), Some(info.utterances))).collect())
}

fn check(path: &Path, expected: Option<u64>) -> Result<u64, ShardError> {
    let shard = Shard::open(path)?;
    shard.verify()?;
    for i in 0..shard.len() {
        shard.get(i)?;
    }
    match expected {
        Some(expected) if expected != shard.len() as u64 => {
            let reason = format!("{} has {} utterances, not {expected}", path.display(), shard.len());
            Err(ShardError::BadIndex { path: path.with_file_name(super::shard::INDEX_FILE), reason })
        }
        _ => Ok(std::fs::metadata(path).map_or(0, |facts| facts.len())),
    }
}

impl Shards {
    /// Opens `paths`: directories made by `echat prepare`, or shards.
    pub fn open(paths: &[PathBuf]) -> Result<Self, ShardError> {
        let files: Vec<Vec<(PathBuf, Option<u64>)>> = paths.iter().map(|p| files_of(p)).collect::<Result<_, _>>()?;
        let shards = files.into_par_iter().flatten().map(|(path, _)| Shard::open(&path)).collect::<Result<_, _>>()?;
        Ok(Self(shards))
    }

    /// Utterances.
    pub fn len(&self) -> usize {
        self.0.iter().map(Shard::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shard that utterance `id` lies in, its number there, and the utterance.
    pub fn find(&self, id: &str) -> Result<Option<(&Shard, usize, Utterance<'_>)>, ShardError> {
        let found = self.0.par_iter().find_map_first(|shard| {
            let found = (0..shard.len()).find_map(|i| match shard.texts(i) {
                Ok(texts) if texts.id == id => Some(Ok(i)),
                Ok(_) => None,
                Err(e) => Some(Err(e)),
            })?;
            Some(found.and_then(|i| Ok((shard, i, shard.get(i)?))))
        });
        found.transpose()
    }

    /// What there is.
    pub fn stats(&self) -> Result<Stats, ShardError> {
        let parts = self.0.par_iter().map(|shard| {
            let mut stats = Stats::default();
            for i in 0..shard.len() {
                let texts = shard.texts(i)?;
                stats.add(u64::from(shard.lengths(i).samples), shard.emotion(i), texts.speaker);
            }
            Ok(stats)
        });
        let parts: Vec<Stats> = parts.collect::<Result<_, ShardError>>()?;
        Ok(parts.into_iter().fold(Stats::default(), Stats::and))
    }

    /// Seconds of every utterance with speech, ascending.
    pub fn seconds(&self) -> Vec<f64> {
        let of = |shard: &Shard| (0..shard.len()).map(|i| shard.lengths(i).samples).collect::<Vec<_>>();
        let mut samples: Vec<u32> = self.0.iter().flat_map(of).filter(|&n| n > 0).collect();
        samples.sort_unstable();
        samples.into_iter().map(|n| f64::from(n) / f64::from(super::audio::SAMPLE_RATE)).collect()
    }

    /// Divides the utterances, each emotion in proportion, into new shard directories `out/NAME`: which utterance goes where is a
    /// function of the shards, `sizes` and `seed`; within a part they keep their order.
    pub fn divide(
        &self,
        out: &Path,
        names: &[String],
        sizes: &Sizes,
        seed: u64,
        shard_bytes: usize,
    ) -> Result<Vec<(Index, Stats)>, DivideError> {
        let labels: Vec<Option<u8>> = self.0.iter().flat_map(emotions).collect();
        let mut counts = match sizes {
            Sizes::Counts(counts) => counts.clone(),
            Sizes::Shares(shares) => split::sizes_of(shares, labels.len())?,
        };
        if let Some(i) = counts.iter().position(|&count| count == 0) {
            return Err(DivideError::EmptyPart { part: names.get(i).cloned().unwrap_or_default() });
        }
        // What is left over is a part that nobody writes.
        counts.push(labels.len().saturating_sub(counts.iter().sum()));
        let parts = split::stratified(&labels, &counts, seed)?;
        // Directories that are in use are found before anything is written.
        let writers: Vec<ShardWriter> =
            names.iter().map(|name| ShardWriter::create(&out.join(name), shard_bytes)).collect::<Result<_, _>>()?;
        let written: Result<Vec<_>, ShardError> =
            writers.into_par_iter().zip(parts).map(|(writer, indices)| self.copy(&indices, writer)).collect();
        Ok(written?)
    }

    /// Copies utterances, given ascending, to `writer`.
    fn copy(&self, indices: &[usize], mut writer: ShardWriter) -> Result<(Index, Stats), ShardError> {
        let mut stats = Stats::default();
        let (mut start, mut left) = (0, indices);
        for shard in &self.0 {
            let (here, after) = left.split_at(left.partition_point(|&i| i < start + shard.len()));
            for &i in here {
                let utterance = shard.get(i - start)?;
                stats.add(utterance.audio.len() as u64, utterance.emotion, utterance.speaker);
                writer.push(&utterance)?;
            }
            (start, left) = (start + shard.len(), after);
        }
        Ok((writer.finish()?, stats))
    }
}

/// The emotion ids of a shard's utterances.
fn emotions(shard: &Shard) -> Vec<Option<u8>> {
    (0..shard.len()).map(|i| shard.emotion(i).map(|e: Emotion| e as u8)).collect()
}
