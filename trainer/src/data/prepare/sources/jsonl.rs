//! JSON lines: manifests of NeMo, WeNet's raw `data.list`, E-chat tuples, `metadata.jsonl` of a Hugging Face audio folder.
//! `data::manifest` knows the keys.

use std::path::Path;

use super::{Grouping, Segment, Sound, SourceError, Visit};
use crate::data::manifest::{self, Entry, ManifestError};
use crate::data::prepare::PrepareError;

/// What describes a Hugging Face audio folder.
pub(super) const METADATA: &str = "metadata.jsonl";

pub(super) fn each(path: &Path, visit: &mut Visit) -> Result<(), PrepareError> {
    let file = if path.is_dir() { path.join(METADATA) } else { path.into() };
    let mut grouping = Grouping::new(visit);
    for entry in manifest::Lines::open(&file).map_err(SourceError::from)? {
        match entry {
            Ok(entry) => {
                let (sound, segment) = taken_apart(&file, entry);
                grouping.segment(sound, segment)?;
            }
            Err(ManifestError::Emotion { line, source, .. }) => {
                grouping.unusable(format!("{}:{line}", file.display()), "", source.to_string())?;
            }
            Err(e @ ManifestError::Seconds { line, .. }) => {
                grouping.unusable(format!("{}:{line}", file.display()), "", e.reason())?;
            }
            Err(e) => return Err(SourceError::from(e).into()),
        }
    }
    grouping.flush()
}

fn taken_apart(file: &Path, entry: Entry) -> (Sound, Segment) {
    let place = format!("{}:{}", file.display(), entry.line);
    let (offset, duration) = entry.audio.as_ref().map_or((0.0, None), |audio| (audio.offset, audio.duration));
    let sound = entry.audio.map_or(Sound::None, |audio| Sound::File(audio.path));
    let Entry { id, text, response, emotion, speaker, context, .. } = entry;
    (sound, Segment { id, text, response, emotion, speaker, context, offset, duration, place })
}
