//! Finding and loading.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::digest::{close, open};
use super::manifest::{Candidate, Manifest, candidates};
use super::retain::ranked;
use super::{Better, Checkpoint, Error, FILES, MODEL, OPTIMIZER, Result, STATE, tensors};

/// How many tensors of each kind an error names.
const NAMED: usize = 3;

/// The newest good checkpoint of a directory.
#[derive(Debug)]
pub struct Latest {
    /// Its path; `None` if there is no good one.
    pub path: Option<PathBuf>,
    /// One line for each newer one that was passed over, and why.
    pub skipped: Vec<String>,
    /// Whether one of those had been complete once.
    pub damaged: bool,
}

/// The newest checkpoint in `dir` that is complete and whose every byte is as it was saved.
pub fn latest_complete(dir: &Path) -> Result<Latest> {
    let mut latest = Latest { path: None, skipped: Vec::new(), damaged: false };
    for candidate in candidates(dir)? {
        match verify(&candidate.path) {
            Ok(()) => {
                latest.path = Some(candidate.path);
                break;
            }
            Err(Error::Incomplete { path }) => {
                latest.skipped.push(format!("skipping {}: it was not saved to the end", path.display()));
            }
            Err(error) => {
                latest.damaged = true;
                latest.skipped.push(format!("skipping {}: {error}", candidate.path.display()));
            }
        }
    }
    Ok(latest)
}

/// The complete checkpoint in `dir` with the best value of `metric`, if any has one. It is not verified.
pub fn best(dir: &Path, metric: &str, better: Better) -> Result<Option<PathBuf>> {
    let all = candidates(dir)?;
    let complete: Vec<&Candidate> = all.iter().filter(|c| c.is_marked()).collect();
    Ok(ranked(&complete, metric, better).first().map(|c| c.path.clone()))
}

/// Errors unless the checkpoint `path` is complete and every byte of it is as it was saved.
pub fn verify(path: &Path) -> Result<()> {
    let manifest = Manifest::read(path)?;
    for name in FILES {
        let (file, saved) = (path.join(name), manifest.file(path, name)?);
        close(&file, open(&file, saved)?, saved)?;
    }
    Ok(())
}

/// Loads the checkpoint `path`, verifying it on the way. Its tensors are on the CPU.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let manifest = Manifest::read(path)?;
    let tensors = |name: &str| tensors::read(&path.join(name), manifest.file(path, name)?);
    let (model, optimizer) = (tensors(MODEL)?, tensors(OPTIMIZER)?);
    let state = read_state(path, &manifest)?;
    Ok(Checkpoint { step: manifest.step, tensors: model, optimizer, state, metrics: manifest.metrics })
}

/// The state of the checkpoint `path` without its tensors, verified.
pub fn load_state(path: &Path) -> Result<serde_json::Value> {
    read_state(path, &Manifest::read(path)?)
}

fn read_state(path: &Path, manifest: &Manifest) -> Result<serde_json::Value> {
    let (file, saved) = (path.join(STATE), manifest.file(path, STATE)?);
    let mut stream = open(&file, saved)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).map_err(|source| Error::Read { path: file.clone(), source })?;
    close(&file, stream, saved)?;
    serde_json::from_slice(&text).map_err(|e| Error::Damaged { path: file, problem: e.to_string() })
}

/// Errors, listing the first few, unless `found` (from the checkpoint `path`) has exactly the names and shapes `expected`.
pub fn expect_tensors<'a>(
    path: &Path,
    expected: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    found: &[(String, Tensor)],
) -> Result<()> {
    let mut unused: BTreeMap<&str, &[usize]> = found.iter().map(|(n, t)| (n.as_str(), t.dims())).collect();
    let (mut missing, mut shapes) = (Vec::new(), Vec::new());
    for (name, shape) in expected {
        match unused.remove(name) {
            None => missing.push(name.to_owned()),
            Some(saved) if saved != shape => shapes.push(format!("{name} ({saved:?} saved, {shape:?} needed)")),
            Some(_) => {}
        }
    }
    let unused: Vec<String> = unused.into_keys().map(str::to_owned).collect();
    let problems: Vec<String> = [("missing", missing), ("of another shape", shapes), ("not in the model", unused)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| describe(what, &names))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Tensors { path: path.into(), problems: problems.join("; ") })
}

fn describe(what: &str, names: &[String]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{} tensor{plural} {what}: {}{more}", names.len(), names[..names.len().min(NAMED)].join(", "))
}
