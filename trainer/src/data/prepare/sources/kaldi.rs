//! Kaldi data directories. Commands in `wav.scp` are refused: nothing that a data file asks for is run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::lines::{Lines, Table, optional, split, table};
use super::{Grouping, Segment, Sound, SourceError, Visit};
use crate::data::prepare::PrepareError;

/// A data directory, read.
struct Directory {
    dir: PathBuf,
    texts: Table,
    speakers: Table,
    recordings: HashMap<String, PathBuf>,
}

pub(super) fn each(dir: &Path, visit: &mut Visit) -> Result<(), PrepareError> {
    let (texts, again) = table(&dir.join("text"))?;
    let mut grouping = Grouping::new(visit);
    for (line, id) in again {
        let place = format!("{}:{line}", dir.join("text").display());
        grouping.unusable(place, &id, "the id comes twice; the first line is taken")?;
    }
    let mut directory =
        Directory { dir: dir.into(), texts, speakers: optional(&dir.join("utt2spk"))?, recordings: HashMap::new() };
    if dir.join("segments").exists() {
        directory.segments(&mut grouping)?;
    } else {
        directory.whole_recordings(&mut grouping)?;
    }
    let mut left: Vec<_> = directory.texts.into_iter().collect();
    left.sort_by_key(|(_, (line, _))| *line);
    for (id, (line, _)) in left {
        let place = format!("{}:{line}", dir.join("text").display());
        grouping.unusable(place, &id, "a transcript without a recording")?;
    }
    grouping.flush()
}

impl Directory {
    fn segment(&mut self, id: &str, place: String) -> Option<Segment> {
        let (_, text) = self.texts.remove(id)?;
        let mut segment = Segment::whole(id.into(), text, place);
        segment.speaker = self.speakers.get(id).map(|(_, speaker)| speaker.clone());
        Some(segment)
    }

    fn whole_recordings(&mut self, grouping: &mut Grouping) -> Result<(), PrepareError> {
        let listed = self.dir.join("wav.scp");
        for entry in scp(&self.dir)? {
            let (line, id, file) = entry?;
            let place = format!("{}:{line}", listed.display());
            match self.segment(&id, place.clone()) {
                Some(segment) => grouping.segment(Sound::File(file), segment)?,
                None => grouping.unusable(place, &id, "a recording without a transcript in text, or named twice")?,
            }
        }
        Ok(())
    }

    fn segments(&mut self, grouping: &mut Grouping) -> Result<(), PrepareError> {
        for entry in scp(&self.dir)? {
            let (_, id, file) = entry?;
            self.recordings.insert(id, file);
        }
        let path = self.dir.join("segments");
        for entry in Lines::open(&path)? {
            let (line, text) = entry?;
            let words: Vec<&str> = text.split_whitespace().collect();
            let place = format!("{}:{line}", path.display());
            let seconds = |i: usize| words.get(i).and_then(|w| w.parse::<f64>().ok()).filter(|s| s.is_finite());
            let (&[id, recording, ..], Some(begin), Some(end)) = (&words[..], seconds(2), seconds(3)) else {
                let reason = "expected `UTTERANCE RECORDING BEGIN END`".into();
                return Err(SourceError::Malformed { path, line, reason }.into());
            };
            let Some(mut segment) = self.segment(id, place.clone()) else {
                grouping.unusable(place, id, "a segment without a transcript in text, or named twice")?;
                continue;
            };
            let Some(file) = self.recordings.get(recording) else {
                grouping.unusable(place, id, format!("its recording `{recording}` is not in wav.scp"))?;
                continue;
            };
            // An end of -1 is that of the recording.
            if begin < 0.0 || (end <= begin && end != -1.0) {
                grouping.unusable(place, id, format!("it begins at {begin} s and ends at {end} s"))?;
                continue;
            }
            segment.offset = begin;
            segment.duration = (end != -1.0).then_some(end - begin);
            grouping.segment(Sound::File(file.clone()), segment)?;
        }
        Ok(())
    }
}

/// `wav.scp`, one recording after the other.
fn scp(dir: &Path) -> Result<impl Iterator<Item = Result<(usize, String, PathBuf), SourceError>> + use<>, SourceError> {
    let path = dir.join("wav.scp");
    let (dir, mut base) = (dir.to_path_buf(), None::<PathBuf>);
    Ok(Lines::open(&path)?.map(move |entry| {
        let (line, text) = entry?;
        let (id, file) = split(&text);
        let bad = |reason: &str| SourceError::Malformed { path: path.clone(), line, reason: reason.into() };
        if file.ends_with('|') || file.starts_with('|') {
            return Err(SourceError::Pipe { path: path.clone(), line, entry: file.into() });
        }
        if file.is_empty() || file == "-" {
            return Err(bad("expected `RECORDING FILE`"));
        }
        if file.rsplit_once(':').is_some_and(|(_, at)| !at.is_empty() && at.bytes().all(|b| b.is_ascii_digit())) {
            return Err(bad("a position in a Kaldi archive; write the recordings to wav or flac files and name these"));
        }
        // Kaldi means the directory it is started in; directories made to be moved mean themselves.
        let base = base.get_or_insert_with(|| {
            let here = Path::new(file).exists() || !dir.join(file).exists();
            if here { PathBuf::new() } else { dir.clone() }
        });
        Ok((line, id.to_string(), base.join(file)))
    }))
}
