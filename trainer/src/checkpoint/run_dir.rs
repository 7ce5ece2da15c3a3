//! Where a run lives and where it starts from.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::load::{latest_complete, verify};
use super::manifest::candidates;
use super::{COMPLETE, Error, MANIFEST, Result};
use crate::files::{Hold, hold, is_vacant};

/// The directory of checkpoints in a run's output directory.
pub const CHECKPOINTS: &str = "checkpoints";

/// `--resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// A fresh run in an empty directory.
    #[default]
    None,
    /// From the newest good checkpoint of the output directory, or from the beginning if it has none yet.
    Auto,
    /// From this checkpoint, or from the newest good one of this run.
    Path(PathBuf),
}

impl FromStr for Resume {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(match text {
            "none" => Self::None,
            "auto" => Self::Auto,
            path => Self::Path(path.into()),
        })
    }
}

/// Where a run starts from.
#[derive(Debug)]
pub struct Start {
    /// The checkpoint to load; `None` starts from the beginning.
    pub from: Option<PathBuf>,
    /// One line for each checkpoint that was passed over, and why.
    pub warnings: Vec<String>,
    /// Keeps other processes from training there.
    pub hold: Hold,
}

/// Creates the output directory `dir` of a run if need be, and finds what `resume` asks for. One process calls it.
pub fn prepare(dir: &Path, resume: &Resume) -> Result<Start> {
    fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
    let checkpoints = dir.join(CHECKPOINTS);
    match resume {
        Resume::None => {
            expect_empty(dir)?;
            Ok(Start { from: None, warnings: Vec::new(), hold: hold_run(dir)? })
        }
        Resume::Auto => {
            let hold = hold_run(dir)?;
            let latest = latest_complete(&checkpoints)?;
            if latest.path.is_none() && latest.damaged {
                // Starting over would throw the run away without a word.
                return Err(Error::NotFound { dir: checkpoints, skipped: latest.skipped });
            }
            Ok(Start { from: latest.path, warnings: latest.skipped, hold })
        }
        Resume::Path(path) => {
            let (from, warnings) = find(path)?;
            let continues = lies_in(&from, &checkpoints);
            if !continues {
                expect_empty(dir)?;
            }
            let hold = hold_run(dir)?;
            if continues {
                expect_newest(&from, &checkpoints)?;
            }
            Ok(Start { from: Some(from), warnings, hold })
        }
    }
}

/// The checkpoint a user means by `path`: a checkpoint (verified), or a run or its directory of checkpoints, whose newest
/// good one it then is; with a warning for each passed over.
pub fn find(path: &Path) -> Result<(PathBuf, Vec<String>)> {
    if path.join(COMPLETE).exists() || path.join(MANIFEST).exists() {
        verify(path)?;
        return Ok((path.into(), Vec::new()));
    }
    // Says "no such file" where that is the problem.
    fs::metadata(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let inside = path.join(CHECKPOINTS);
    let dir = if inside.is_dir() { inside } else { path.into() };
    let latest = latest_complete(&dir)?;
    match latest.path {
        Some(found) => Ok((found, latest.skipped)),
        None => Err(Error::NotFound { dir, skipped: latest.skipped }),
    }
}

fn expect_empty(dir: &Path) -> Result<()> {
    match is_vacant(dir).map_err(|source| Error::Read { path: dir.into(), source })? {
        true => Ok(()),
        false => Err(Error::NotEmpty { dir: dir.into() }),
    }
}

fn hold_run(dir: &Path) -> Result<Hold> {
    let held = hold(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
    held.ok_or_else(|| Error::Busy { dir: dir.into() })
}

fn lies_in(path: &Path, dir: &Path) -> bool {
    match (path.canonicalize(), dir.canonicalize()) {
        (Ok(path), Ok(dir)) => path.parent() == Some(&dir),
        _ => false,
    }
}

/// Errors if `dir` has complete checkpoints newer than its `path`.
fn expect_newest(path: &Path, dir: &Path) -> Result<()> {
    let newest = candidates(dir)?.into_iter().find(|c| c.is_marked());
    match newest {
        Some(newest) if newest.path.file_name() != path.file_name() => Err(Error::Newer {
            path: path.into(),
            newest: newest.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }),
        _ => Ok(()),
    }
}
