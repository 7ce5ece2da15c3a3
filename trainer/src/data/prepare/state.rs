//! What lies in the output directory: whose it is, which parts are done, and what makes it a corpus in the end.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::Plan;
use super::sources::Source;
use super::{PrepareError, PrepareOptions, Prepared, RECIPE_FILE, REJECTS_FILE};
use crate::data::corpus::Reject;
use crate::data::shard::{INDEX_FILE, Index, ShardError, ShardInfo, write_index};
use crate::files::{Hold, hold, is_vacant, remove_temporaries, write_whole};

/// A part that is done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its shards; none if nothing of it could be used.
    pub(super) shards: Vec<ShardInfo>,
    /// Their bytes.
    pub(super) bytes: Vec<u64>,
    /// What was left out.
    pub(super) rejects: Vec<Reject>,
}

/// The recipe of `out`: what decides its bytes, and what its sources are called. Not where they lie: the bytes do not depend on it.
fn recipe(sources: &[Source], plan: &Plan, options: &PrepareOptions) -> Value {
    let rules = |s: &Source| {
        json!({
            "name": s.path.file_name().map(|n| n.to_string_lossy()), "format": s.format, "subsets": s.subsets, "width": s.rules.width, "case": s.rules.case,
            "punctuation": s.rules.punctuation, "spaces": s.rules.spaces,
        })
    };
    json!({
        "version": 1,
        "utterances": plan.total(),
        "transcripts_sha256": plan.sha256,
        "min_seconds": options.min_seconds,
        "max_seconds": options.max_seconds,
        "shard_bytes": options.shard_bytes,
        "sources": sources.iter().map(rules).collect::<Vec<_>>(),
    })
}

/// Makes `out` ours, for as long as the hold lives: `Some` if an earlier run has finished it.
pub(super) fn claim(
    out: &Path,
    sources: &[Source],
    plan: &Plan,
    options: &PrepareOptions,
) -> Result<(Hold, Option<Prepared>), PrepareError> {
    fs::create_dir_all(out).map_err(PrepareError::file(out, "cannot be made"))?;
    let (path, ours) = (out.join(RECIPE_FILE), recipe(sources, plan, options));
    let is_new = match fs::read(&path) {
        Ok(bytes) => compare(out, &ours, &bytes).map(|()| false)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if !is_vacant(out).map_err(PrepareError::file(out, "cannot be read"))? {
                return Err(ShardError::NotEmpty { path: out.into() }.into());
            }
            true
        }
        Err(e) => return Err(PrepareError::file(&path, "cannot be read")(e)),
    };
    let hold = hold(out).map_err(PrepareError::file(out, "cannot be locked"))?;
    let hold = hold.ok_or_else(|| PrepareError::Busy { path: out.into() })?;
    if is_new {
        write(&path, &(serde_json::to_string_pretty(&ours).unwrap_or_default() + "\n"))?;
    }
    clean(out)?;
    let rejects = read_rejects(out)?;
    if options.retry {
        forget_rejects(out, plan)?;
    }
    if !out.join(INDEX_FILE).exists() {
        return Ok((hold, None));
    }
    check_share(out, plan, &rejects, options)?;
    Ok((hold, Some(Prepared { index: Index::read(out)?, rejected: rejects.len(), unchanged: true })))
}

/// Errors if `out` was not made by our recipe. Where the sources lie makes no difference.
fn compare(out: &Path, ours: &Value, theirs: &[u8]) -> Result<(), PrepareError> {
    let theirs: Value = serde_json::from_slice(theirs).unwrap_or_default();
    let keys = ["version", "transcripts_sha256", "utterances", "min_seconds", "max_seconds", "shard_bytes"];
    match keys.into_iter().find(|key| ours[key] != theirs[key]) {
        None => Ok(()),
        Some(key) => {
            let differs = format!("{key}: {} there, {} now", theirs[key], ours[key]);
            Err(PrepareError::OtherRecipe { path: out.into(), differs })
        }
    }
}

/// Removes what a killed run left half written, and records that are no longer needed.
fn clean(out: &Path) -> Result<(), PrepareError> {
    remove_temporaries(out).map_err(PrepareError::file(out, "cannot be cleaned up"))?;
    if !out.join(INDEX_FILE).exists() {
        return Ok(());
    }
    let failed = PrepareError::file(out, "cannot be read");
    for entry in fs::read_dir(out).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".part-")) {
            fs::remove_file(&path).map_err(PrepareError::file(&path, "cannot be removed"))?;
        }
    }
    Ok(())
}

/// Makes the parts with rejects undone. A finished directory becomes an unfinished one: its other parts get their records back.
fn forget_rejects(out: &Path, plan: &Plan) -> Result<(), PrepareError> {
    let index = out.join(INDEX_FILE);
    if index.exists() {
        restore_records(out, plan)?;
        fs::remove_file(&index).map_err(PrepareError::file(&index, "cannot be removed"))?;
    }
    for part in 0..plan.parts.len() {
        let path = record_path(out, part);
        if read_record(out, part)?.is_some_and(|record| !record.rejects.is_empty()) {
            fs::remove_file(&path).map_err(PrepareError::file(&path, "cannot be removed"))?;
        }
    }
    Ok(())
}

/// The records that `finish` has removed. Which part a reject belongs to is not known any more: every part but those with all their utterances
/// is taken to have some.
fn restore_records(out: &Path, plan: &Plan) -> Result<(), PrepareError> {
    let index = Index::read(out)?;
    for (part, &utterances) in plan.parts.iter().enumerate() {
        let stem = format!("shard-{part:05}");
        let of_part =
            |s: &&ShardInfo| s.file.starts_with(&(stem.clone() + ".")) || s.file.starts_with(&(stem.clone() + "-"));
        let shards: Vec<ShardInfo> = index.shards.iter().filter(of_part).cloned().collect();
        if shards.iter().map(|s| s.utterances).sum::<u64>() == utterances {
            let bytes = shards.iter().map(|s| file_len(&out.join(&s.file))).collect::<Result<_, _>>()?;
            write_record(out, part, &Record { shards, bytes, rejects: Vec::new() })?;
        }
    }
    Ok(())
}

fn record_path(out: &Path, part: usize) -> PathBuf {
    out.join(format!(".part-{part:05}.json"))
}

/// The record of a part, if it is done and its shards are there.
pub(super) fn read_record(out: &Path, part: usize) -> Result<Option<Record>, PrepareError> {
    let path = record_path(out, part);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(PrepareError::file(&path, "cannot be read")(e)),
    };
    let record: Option<Record> = serde_json::from_slice(&bytes).ok();
    Ok(record.filter(|record| {
        let whole =
            |(shard, &bytes): (&ShardInfo, &u64)| file_len(&out.join(&shard.file)).is_ok_and(|len| len == bytes);
        record.shards.len() == record.bytes.len() && record.shards.iter().zip(&record.bytes).all(whole)
    }))
}

/// Marks a part as done.
pub(super) fn write_record(out: &Path, part: usize, record: &Record) -> Result<(), PrepareError> {
    write(&record_path(out, part), &serde_json::to_string(record).unwrap_or_default())
}

/// The length of a file.
pub(super) fn file_len(path: &Path) -> Result<u64, PrepareError> {
    Ok(fs::metadata(path).map_err(PrepareError::file(path, "cannot be read"))?.len())
}

/// Makes the directory a corpus: the list of rejects, the index, and no records any more.
pub(super) fn finish(out: &Path, plan: &Plan, options: &PrepareOptions) -> Result<Prepared, PrepareError> {
    let (mut shards, mut rejects) = (Vec::new(), Vec::new());
    for part in 0..plan.parts.len() {
        let record = read_record(out, part)?.ok_or_else(|| {
            let path = record_path(out, part);
            PrepareError::File { path, what: "cannot be read", reason: "the part was not finished".into() }
        })?;
        shards.extend(record.shards);
        rejects.extend(record.rejects);
    }
    write_rejects(out, &rejects)?;
    check_share(out, plan, &rejects, options)?;
    if shards.is_empty() {
        let hint = format!("; all are listed in {}", out.join(REJECTS_FILE).display());
        return Err(PrepareError::Empty { what: out.display().to_string(), hint });
    }
    let index = write_index(out, shards)?;
    clean(out)?;
    Ok(Prepared { index, rejected: rejects.len(), unchanged: false })
}

/// Errors if more than the allowed share is left out.
fn check_share(out: &Path, plan: &Plan, rejects: &[Reject], options: &PrepareOptions) -> Result<(), PrepareError> {
    let (bad, total, share) = (rejects.len() as u64, plan.total(), options.max_bad_share);
    match rejects.first() {
        Some(first) if bad as f64 > share * total as f64 => {
            let example = format!("{}: {}", first.source, first.reason);
            Err(PrepareError::TooManyBad { bad, total, share, rejects: out.join(REJECTS_FILE), example })
        }
        _ => Ok(()),
    }
}

/// Errors as `check_share` does, for one rank that has met `rejects` so far, after writing them down.
pub(super) fn give_up(
    out: &Path,
    plan: &Plan,
    rejects: &[Reject],
    options: &PrepareOptions,
) -> Result<(), PrepareError> {
    let result = check_share(out, plan, rejects, options);
    if result.is_err() {
        write_rejects(out, rejects)?;
    }
    result
}

fn write_rejects(out: &Path, rejects: &[Reject]) -> Result<(), PrepareError> {
    let lines: String = rejects.iter().map(|r| serde_json::to_string(r).unwrap_or_default() + "\n").collect();
    write(&out.join(REJECTS_FILE), &lines)
}

fn read_rejects(out: &Path) -> Result<Vec<Reject>, PrepareError> {
    let path = out.join(REJECTS_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(PrepareError::file(&path, "cannot be read")(e)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), PrepareError> {
    write_whole(path, |file| file.write_all(text.as_bytes())).map_err(PrepareError::file(path, "cannot be written"))
}
