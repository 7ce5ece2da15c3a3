//! Saving.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::{Hashed, sha256};
use super::manifest::{FileRecord, Manifest};
use super::{
    COMPLETE, Checkpoint, CheckpointConfig, Error, MANIFEST, MODEL, OPTIMIZER, PREFIX, REPLACED, Result, STATE,
    TEMPORARY, retain, tensors,
};
use crate::files::sync_dir;

/// How far a save has come; a process may die after any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The temporary directory exists.
    Begun,
    /// The parameters are on disk.
    Model,
    /// And the optimizer's state.
    Optimizer,
    /// And the rest, and the manifest.
    Manifest,
    /// A checkpoint of the same step was moved aside.
    MovedAside,
    /// It has its name, but no marker yet.
    Renamed,
    /// Its marker is written, but has not got its name.
    Marking,
    /// It is complete.
    Marked,
    /// One that is no longer kept has lost its marker.
    Unmarked,
    /// Those no longer kept are gone.
    Retained,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Begun,
        Self::Model,
        Self::Optimizer,
        Self::Manifest,
        Self::MovedAside,
        Self::Renamed,
        Self::Marking,
        Self::Marked,
        Self::Unmarked,
        Self::Retained,
    ];
}

/// A finished save.
#[derive(Debug)]
pub struct Saved {
    /// The checkpoint.
    pub path: PathBuf,
    /// One line for each old checkpoint that should be gone and could not be removed.
    pub warnings: Vec<String>,
}

/// Saves `checkpoint` as `dir/step-NNNNNNNN`, then removes those `config` does not keep. One process calls it.
///
/// On an error nothing is left of the new checkpoint and all older ones are as they were.
pub fn save(dir: &Path, checkpoint: &Checkpoint, config: &CheckpointConfig) -> Result<Saved> {
    save_with(dir, checkpoint, config, &mut |_| {})
}

/// [`save`], with `on_stage` called as it goes (tests stop it there).
pub fn save_with(
    dir: &Path,
    checkpoint: &Checkpoint,
    config: &CheckpointConfig,
    on_stage: &mut dyn FnMut(Stage),
) -> Result<Saved> {
    let name = |prefix: &str| dir.join(format!("{prefix}{:08}", checkpoint.step));
    let (temporary, path, aside) = (name(TEMPORARY), name(PREFIX), name(REPLACED));
    let written = create(dir)
        .and_then(|()| write(&temporary, checkpoint, on_stage))
        .and_then(|()| publish(dir, &temporary, &path, &aside, on_stage));
    if let Err(error) = written {
        // Best effort: the error is what matters, and what is left has no marker.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let warnings = retain::retain(dir, &path, config, on_stage);
    on_stage(Stage::Retained);
    Ok(Saved { path, warnings })
}

/// Makes sure that the directory of checkpoints is there, and its name durable.
fn create(dir: &Path) -> Result<()> {
    at(dir, fs::create_dir_all(dir))?;
    match dir.parent() {
        Some(parent) if parent != Path::new("") => at(parent, sync_dir(parent)),
        _ => Ok(()),
    }
}

/// Writes all files but the marker into `temporary` and syncs them.
fn write(temporary: &Path, checkpoint: &Checkpoint, on_stage: &mut dyn FnMut(Stage)) -> Result<()> {
    // Left by a process that was killed.
    at(temporary, remove(temporary))?;
    at(temporary, fs::create_dir(temporary))?;
    on_stage(Stage::Begun);
    let mut files = BTreeMap::new();
    let mut put = |file: &str, content: &dyn Fn(&Path, &mut Hashed<File>) -> Result<()>| -> Result<()> {
        let record = write_file(&temporary.join(file), content)?;
        files.insert(file.to_owned(), record);
        Ok(())
    };
    put(MODEL, &|path, out| tensors::write(path, out, &checkpoint.tensors))?;
    on_stage(Stage::Model);
    put(OPTIMIZER, &|path, out| tensors::write(path, out, &checkpoint.optimizer))?;
    on_stage(Stage::Optimizer);
    let state = json(&temporary.join(STATE), &checkpoint.state)?;
    put(STATE, &|path, out| at(path, out.write_all(&state)))?;
    let manifest = Manifest::new(checkpoint.step, &checkpoint.metrics, files);
    let manifest = json(&temporary.join(MANIFEST), &manifest)?;
    write_file(&temporary.join(MANIFEST), &|path, out| at(path, out.write_all(&manifest)))?;
    at(temporary, sync_dir(temporary))?;
    on_stage(Stage::Manifest);
    Ok(())
}

/// Gives the directory its name, and then its marker.
fn publish(dir: &Path, temporary: &Path, path: &Path, aside: &Path, on_stage: &mut dyn FnMut(Stage)) -> Result<()> {
    if path.join(COMPLETE).exists() {
        // The run went back and has come to this step again. The old one stays loadable until the new one is complete.
        at(aside, remove(aside))?;
        at(path, fs::rename(path, aside))?;
        on_stage(Stage::MovedAside);
    } else {
        at(path, remove(path))?;
    }
    let marked = at(path, fs::rename(temporary, path)).and_then(|()| {
        at(dir, sync_dir(dir))?;
        on_stage(Stage::Renamed);
        mark(path, on_stage)
    });
    if marked.is_err() {
        let _ = remove(path);
        let _ = fs::rename(aside, path);
        return marked;
    }
    on_stage(Stage::Marked);
    Ok(())
}

/// Writes the marker under another name first: one that a kill leaves half written must not be taken for a marker.
fn mark(path: &Path, on_stage: &mut dyn FnMut(Stage)) -> Result<()> {
    let manifest = path.join(MANIFEST);
    let bytes = fs::read(&manifest).map_err(|source| Error::Read { path: manifest, source })?;
    let line = format!("{}\n", sha256(&bytes));
    let unnamed = path.join(format!("{COMPLETE}.tmp"));
    write_file(&unnamed, &|path, out| at(path, out.write_all(line.as_bytes())))?;
    on_stage(Stage::Marking);
    at(path, fs::rename(&unnamed, path.join(COMPLETE)))?;
    at(path, sync_dir(path))
}

fn write_file(path: &Path, content: &dyn Fn(&Path, &mut Hashed<File>) -> Result<()>) -> Result<FileRecord> {
    let mut out = Hashed::new(at(path, File::create(path))?);
    content(path, &mut out)?;
    let (file, record) = out.finish();
    at(path, file.sync_all())?;
    Ok(record)
}

fn json(path: &Path, value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = at(path, serde_json::to_vec_pretty(value).map_err(io::Error::from))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Removes a directory and all in it, marker first; that there is none is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    gone(fs::remove_file(path.join(COMPLETE)))?;
    gone(fs::remove_dir_all(path))
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| Error::Write { path: path.into(), source })
}
