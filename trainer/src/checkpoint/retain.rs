//! Which checkpoints stay.

use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::{Candidate, Manifest, candidates};
use super::save::{Stage, remove};
use super::{Better, COMPLETE, CheckpointConfig, Result, TEMPORARY};
use crate::files::sync_dir;

/// Removes what `config` does not keep, now that `newest` is complete. Returns a line for each that could not be removed.
pub(super) fn retain(
    dir: &Path,
    newest: &Path,
    config: &CheckpointConfig,
    on_stage: &mut dyn FnMut(Stage),
) -> Vec<String> {
    let doomed = match doomed(dir, newest, config) {
        Ok(doomed) => doomed,
        Err(error) => return vec![format!("old checkpoints were not removed: {error}")],
    };
    let mut warnings = Vec::new();
    for path in doomed {
        let removed = unmark(&path, on_stage).and_then(|()| remove(&path));
        if let Err(error) = removed {
            warnings.push(format!("cannot remove the old checkpoint {}: {error}", path.display()));
        }
    }
    warnings
}

/// Takes the marker off, durably, so that no half-removed checkpoint is ever taken for a whole one.
fn unmark(path: &Path, on_stage: &mut dyn FnMut(Stage)) -> std::io::Result<()> {
    if path.join(COMPLETE).exists() {
        fs::remove_file(path.join(COMPLETE))?;
        sync_dir(path)?;
        on_stage(Stage::Unmarked);
    }
    Ok(())
}

fn doomed(dir: &Path, newest: &Path, config: &CheckpointConfig) -> Result<Vec<PathBuf>> {
    let all = candidates(dir)?;
    let complete: Vec<&Candidate> = all.iter().filter(|c| !c.replaced && c.is_marked()).collect();
    let keep_last = if config.keep_last == 0 { complete.len() } else { config.keep_last };
    let mut kept: Vec<&Path> = complete.iter().take(keep_last).map(|c| c.path.as_path()).collect();
    kept.push(newest);
    let best = ranked(&complete, &config.best_metric, config.better);
    kept.extend(best.iter().take(config.keep_best).map(|c| c.path.as_path()));
    // Oldest first. Not only complete ones: what interrupted saves left is of no use now.
    let mut doomed: Vec<PathBuf> =
        all.iter().rev().filter(|c| !kept.contains(&c.path.as_path())).map(|c| c.path.clone()).collect();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.starts_with(TEMPORARY)) {
            doomed.push(entry.path());
        }
    }
    Ok(doomed)
}

/// Those of `complete` whose manifest has `metric`, best first, the newer first among equals.
pub(super) fn ranked<'a>(complete: &[&'a Candidate], metric: &str, better: Better) -> Vec<&'a Candidate> {
    let value = |c: &Candidate| Manifest::read(&c.path).ok()?.metrics.get(metric).copied();
    let mut ranked: Vec<(f64, &Candidate)> = complete.iter().filter_map(|c| Some((value(c)?, *c))).collect();
    ranked.sort_by(|(a, x), (b, y)| {
        let order = match better {
            Better::Lower => a.total_cmp(b),
            Better::Higher => b.total_cmp(a),
        };
        order.then(y.step.cmp(&x.step))
    });
    ranked.into_iter().map(|(_, c)| c).collect()
}
