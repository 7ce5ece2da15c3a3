//! From responses and recordings to manifests, shards and statistics.

use super::config::{SplitConfig, SynthConfig};
use super::cost::Cost;
use super::error::SynthError;
use super::gather::Results;
use super::texts::Item;
use super::work::Work;
use super::{Progress, Watch};
use crate::data::audio::SAMPLE_RATE;
use crate::data::corpus::Reject;
use crate::data::prepare::{self, prepare};
use crate::data::split::{sizes_of, stratified};
use crate::data::stats::Stats;
use crate::dist::{Solo, World};
use serde::Serialize;
use std::collections::BTreeMap;

/// One line of a manifest.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    audio_filepath: String,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    emotion: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    speaker: &'a str,
    duration: f64,
}

/// What was built; `stats.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Each part's statistics.
    pub parts: BTreeMap<String, Stats>,
    /// Texts left out, which `rejects.jsonl` lists.
    pub rejected: usize,
    /// All replies that were kept, in this run and earlier ones.
    pub cost: Cost,
}

/// Names and sizes of the parts of `items`, in the order of the names; `rest` last. An error if one would be empty.
pub fn sizes(config: &SynthConfig, items: &[Item]) -> Result<Vec<(String, usize)>, SynthError> {
    let sizes: Vec<(String, usize)> = match &config.split {
        Some(split) => split_sizes(split, items.len())?,
        None => {
            let of = |part| items.iter().filter(|item| item.part == Some(part)).count();
            config.texts.parts.keys().enumerate().map(|(part, name)| (name.clone(), of(part))).collect()
        }
    };
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((part, _)) => Err(SynthError::Part { part: part.clone(), wanted: 0, found: items.len() }),
        None => Ok(sizes),
    }
}

fn split_sizes(split: &SplitConfig, items: usize) -> Result<Vec<(String, usize)>, SynthError> {
    let shares: Vec<f64> = split.shares.values().copied().collect();
    let shared = split.shares.keys().cloned().zip(sizes_of(&shares, items)?);
    let mut sizes: Vec<(String, usize)> = split.counts.clone().into_iter().chain(shared).collect();
    let mut left = items;
    for (part, wanted) in &sizes {
        let too_many = || SynthError::Part { part: part.clone(), wanted: *wanted, found: items };
        left = left.checked_sub(*wanted).ok_or_else(too_many)?;
    }
    sizes.push((split.rest.clone(), left));
    Ok(sizes)
}

/// Writes everything about `results`, the statistics last.
pub fn write(
    work: &Work<'_>,
    results: &Results<(Option<String>, u64)>,
    cost: Cost,
    watch: Watch<'_>,
) -> Result<Report, SynthError> {
    let rejected = write_rejects(work, results)?;
    let usable: Vec<usize> = results.iter().filter(|(_, result)| result.is_ok()).map(|(index, _)| *index).collect();
    let items: Vec<Item> = usable.iter().map(|&index| work.items[index].clone()).collect();
    let parts = sizes(work.config, &items)?;
    let members = match &work.config.split {
        Some(split) => {
            let labels: Vec<_> = items.iter().map(|item| item.emotion).collect();
            let wanted: Vec<usize> = parts.iter().map(|(_, size)| *size).collect();
            stratified(&labels, &wanted, split.seed)?
        }
        None => {
            (0..parts.len()).map(|part| (0..items.len()).filter(|&i| items[i].part == Some(part)).collect()).collect()
        }
    };
    let mut report = Report { parts: BTreeMap::new(), rejected, cost };
    for ((part, _), members) in parts.iter().zip(members) {
        let indices: Vec<usize> = members.into_iter().map(|member| usable[member]).collect();
        let stats = write_part(work, part, &indices, results, watch)?;
        report.parts.insert(part.clone(), stats);
    }
    let scratch = work.place.scratch();
    std::fs::remove_dir_all(&scratch).map_err(SynthError::io("remove", &scratch))?;
    let path = work.place.stats();
    let text = serde_json::to_string_pretty(&report).map_err(|e| SynthError::io("write", &path)(e.into()))?;
    work.place.write(&path, format!("{text}\n").as_bytes())?;
    Ok(report)
}

/// One line of JSON for each.
fn lines<T: Serialize>(work: &Work<'_>, name: &str, lines: impl Iterator<Item = T>) -> Result<(), SynthError> {
    let path = work.place.root.join(name);
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, &line).map_err(|e| SynthError::io("write", &path)(e.into()))?;
        bytes.push(b'\n');
    }
    work.place.write(&path, &bytes)
}

fn write_rejects(work: &Work<'_>, results: &Results<(Option<String>, u64)>) -> Result<usize, SynthError> {
    let reject = |(index, result): (&usize, &Result<_, String>)| {
        let (item, reason) = (&work.items[*index], result.as_ref().err()?.clone());
        Some(Reject { source: item.source.clone(), id: item.id.clone(), reason })
    };
    let rejects: Vec<Reject> = results.iter().filter_map(reject).collect();
    lines(work, "rejects.jsonl", rejects.iter())?;
    Ok(rejects.len())
}

/// A part's manifest and shards.
fn write_part(
    work: &Work<'_>,
    part: &str,
    indices: &[usize],
    results: &Results<(Option<String>, u64)>,
    watch: Watch<'_>,
) -> Result<Stats, SynthError> {
    let mut stats = Stats::default();
    let made = indices.iter().filter_map(|index| Some((&work.items[*index], results.get(index)?.as_ref().ok()?)));
    let manifest: Vec<Line<'_>> = made
        .map(|(item, (response, samples))| {
            let speaker = work.voice(item);
            stats.add(*samples, Some(item.emotion), Some(speaker).filter(|speaker| !speaker.is_empty()));
            Line {
                id: &item.id,
                audio_filepath: work.recording(item),
                text: &item.text,
                response: response.as_deref(),
                emotion: item.emotion.name(),
                speaker,
                duration: *samples as f64 / f64::from(SAMPLE_RATE),
            }
        })
        .collect();
    work.place.clear_part(part)?;
    let name = format!("{part}.jsonl");
    lines(work, &name, manifest.iter())?;
    watch(Progress::Begin { what: "recording to shards", total: manifest.len() });
    let (mut done, shards) = (0, work.place.root.join(part));
    let source = prepare::Source::json_lines(&work.place.root.join(name));
    let mut solo = Solo::new(World::single("this host"));
    prepare(&[source], &shards, &work.config.prepare_options(), &mut solo, &mut |progress| {
        (done..progress.done).for_each(|_| watch(Progress::Advance));
        done = progress.done;
    })?;
    watch(Progress::End);
    Ok(stats)
}
