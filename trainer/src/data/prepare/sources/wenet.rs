//! WeNet shards: tar archives of `KEY.txt` beside `KEY.wav` (or flac, opus, …), or a list of archives.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Grouping, Segment, Sound, SourceError, Visit, lines};
use crate::data::prepare::PrepareError;

/// Longer transcripts are a mistake.
const MAX_TEXT_BYTES: u64 = 1 << 20;

pub(super) fn each(path: &Path, visit: &mut Visit) -> Result<(), PrepareError> {
    let mut grouping = Grouping::new(visit);
    if path.extension().is_some_and(|e| e == "tar") {
        archive(path, &mut grouping)?;
        return grouping.flush();
    }
    // As in Kaldi's lists, relative paths are relative to where the tool was started, or else to the list.
    let folder = path.parent().unwrap_or(Path::new(""));
    for entry in lines::Lines::open(path)? {
        let (_, name) = entry?;
        let here = PathBuf::from(name);
        archive(&if here.exists() { here } else { folder.join(here) }, &mut grouping)?;
    }
    grouping.flush()
}

/// What is known of one key.
#[derive(Default)]
struct Pair {
    key: String,
    text: Option<String>,
    sound: Option<Sound>,
}

fn archive(path: &Path, grouping: &mut Grouping) -> Result<(), PrepareError> {
    let file = File::open(path).map_err(SourceError::unreadable(path))?;
    let size = file.metadata().map_err(SourceError::unreadable(path))?.len();
    let damaged = |e: std::io::Error| SourceError::Archive { path: path.into(), reason: e.to_string() };
    let mut archive = tar::Archive::new(BufReader::new(file));
    let mut pair = Pair::default();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
        let file_name = name.rsplit('/').next().unwrap_or(&name);
        let Some((key, extension)) = file_name.rsplit_once('.') else { continue };
        if key != pair.key {
            finish(path, std::mem::replace(&mut pair, Pair { key: key.into(), ..Pair::default() }), grouping)?;
        }
        let (start, len) = (entry.raw_file_position(), entry.size());
        if start + len > size {
            let reason = format!("`{name}` ends at byte {}, the archive at {size}", start + len);
            return Err(SourceError::Archive { path: path.into(), reason }.into());
        }
        if extension == "txt" {
            let mut text = String::new();
            entry.by_ref().take(MAX_TEXT_BYTES).read_to_string(&mut text).map_err(damaged)?;
            pair.text = Some(text.trim_start_matches('\u{feff}').trim().into());
        } else {
            pair.sound = Some(Sound::Member { archive: path.into(), name, start, len });
        }
    }
    finish(path, pair, grouping)
}

fn finish(path: &Path, pair: Pair, grouping: &mut Grouping) -> Result<(), PrepareError> {
    let place = format!("{}:{}", path.display(), pair.key);
    match (pair.text, pair.sound) {
        (Some(text), Some(sound)) => grouping.segment(sound, Segment::whole(pair.key, text, place)),
        (None, None) => Ok(()),
        (Some(_), None) => grouping.unusable(place, &pair.key, "a transcript without a recording"),
        (None, Some(_)) => grouping.unusable(place, &pair.key, "a recording without a transcript"),
    }
}
