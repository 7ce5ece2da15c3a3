//! AISHELL-1 as OpenSLR 33 publishes it, the speakers' archives unpacked. There are recordings without a transcript, as published.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::{Grouping, Segment, Sound, SourceError, Visit, lines};
use crate::data::prepare::PrepareError;

/// The transcript of the corpus at `path`, which is `data_aishell` or the directory it lies in.
pub(super) fn transcript(path: &Path) -> Option<PathBuf> {
    let named = |dir: &Path| {
        let entries = std::fs::read_dir(dir.join("transcript")).ok()?;
        let mut names: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        names.sort();
        names.into_iter().find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("aishell_transcript")))
    };
    named(path).or_else(|| named(&path.join("data_aishell")))
}

pub(super) fn each(path: &Path, subsets: &[String], visit: &mut Visit) -> Result<(), PrepareError> {
    let Some(transcript) = transcript(path) else {
        let missing = path.join("transcript/aishell_transcript_v0.8.txt");
        return Err(SourceError::unreadable(&missing)(std::io::ErrorKind::NotFound.into()).into());
    };
    let root = transcript.parent().and_then(Path::parent).unwrap_or(path);
    let wav = root.join("wav");
    let parts = children(&wav)?;
    let packed = parts.values().find(|p| p.to_string_lossy().ends_with(".tar.gz"));
    if let (Some(packed), false) = (packed, parts.values().any(|p| p.is_dir())) {
        return Err(SourceError::Packed { path: packed.clone(), dir: wav }.into());
    }
    let parts: BTreeMap<String, PathBuf> = parts.into_iter().filter(|(_, p)| p.is_dir()).collect();
    if let Some(subset) = subsets.iter().find(|s| !parts.contains_key(*s)) {
        let known = parts.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(SourceError::UnknownSubset { path: path.into(), subset: subset.clone(), known }.into());
    }
    let (texts, again) = lines::table(&transcript)?;
    let mut grouping = Grouping::new(visit);
    for (line, id) in again {
        grouping.unusable(place(&transcript, line), &id, "the id comes twice; the first line is taken")?;
    }
    let (mut seen, mut untranscribed) = (HashSet::new(), 0);
    for (part, dir) in &parts {
        let wanted = subsets.is_empty() || subsets.contains(part);
        for (speaker, dir) in children(dir)?.into_iter().filter(|(_, p)| p.is_dir()) {
            for (name, file) in children(&dir)? {
                let Some(id) = name.strip_suffix(".wav") else { continue };
                seen.insert(id.to_string());
                match texts.get(id) {
                    Some((line, text)) if wanted => {
                        let mut segment = Segment::whole(id.into(), text.clone(), place(&transcript, *line));
                        segment.speaker = Some(speaker.clone());
                        grouping.segment(Sound::File(file), segment)?;
                    }
                    None if wanted => untranscribed += 1,
                    _ => {}
                }
            }
        }
    }
    if subsets.is_empty() {
        let mut missing: Vec<_> = texts.iter().filter(|(id, _)| !seen.contains(*id)).collect();
        missing.sort_by_key(|(_, (line, _))| *line);
        for (id, (line, _)) in missing {
            grouping.unusable(place(&transcript, *line), id, "a transcript without a recording")?;
        }
    }
    grouping.untranscribed(untranscribed)
}

fn place(transcript: &Path, line: usize) -> String {
    format!("{}:{line}", transcript.display())
}

/// What lies in `dir`, by name.
fn children(dir: &Path) -> Result<BTreeMap<String, PathBuf>, SourceError> {
    let unreadable = || SourceError::unreadable(dir);
    let mut children = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable())? {
        let path = entry.map_err(unreadable())?.path();
        if let Some(name) = path.file_name() {
            children.insert(name.to_string_lossy().into_owned(), path);
        }
    }
    Ok(children)
}
