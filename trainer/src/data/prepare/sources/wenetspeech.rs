//! WenetSpeech: one JSON file of 13 GB, read as a stream, and long recordings that are cut by its segments.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Found, Recording, Segment, Sound, SourceError, Visit};
use crate::data::corpus::Reject;
use crate::data::prepare::PrepareError;

/// The file that describes the corpus.
pub(super) const METADATA: &str = "WenetSpeech.json";
/// The subsets as published.
const SUBSETS: [&str; 7] = ["L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING"];

/// A recording of the metadata.
#[derive(Deserialize)]
struct Audio {
    aid: String,
    path: PathBuf,
    #[serde(default)]
    segments: Vec<Part>,
}

/// A segment of the metadata.
#[derive(Deserialize)]
struct Part {
    sid: String,
    begin_time: f64,
    end_time: f64,
    #[serde(default)]
    subsets: Vec<String>,
    #[serde(default)]
    text: String,
}

pub(super) fn each(path: &Path, subsets: &[String], visit: &mut Visit) -> Result<(), PrepareError> {
    if let Some(subset) = subsets.iter().find(|s| !SUBSETS.iter().any(|known| known.eq_ignore_ascii_case(s))) {
        let known = SUBSETS.join(", ");
        return Err(SourceError::UnknownSubset { path: path.into(), subset: subset.clone(), known }.into());
    }
    let metadata = if path.is_dir() { path.join(METADATA) } else { path.into() };
    let file = File::open(&metadata).map_err(SourceError::unreadable(&metadata))?;
    let mut stream = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, file));
    let mut root = Root { metadata: &metadata, subsets, visit, failure: None };
    let read = root.deserialize(&mut stream).and_then(|()| stream.end());
    match (root.failure, read) {
        (Some(failure), _) => Err(failure),
        (None, Ok(())) => Ok(()),
        (None, Err(e)) if e.is_io() => Err(SourceError::unreadable(&metadata)(e.into()).into()),
        (None, Err(e)) => {
            let reason = e.to_string();
            Err(SourceError::Malformed { path: metadata, line: e.line(), reason }.into())
        }
    }
}

/// Reads the file: a map whose `audios` are visited one after the other.
struct Root<'a, 'v> {
    metadata: &'a Path,
    subsets: &'a [String],
    visit: &'a mut Visit<'v>,
    /// What the visitor said, which serde cannot carry.
    failure: Option<PrepareError>,
}

impl Root<'_, '_> {
    fn take(&mut self, audio: Audio) -> Result<(), PrepareError> {
        let wanted = |part: &Part| {
            let listed = |s: &String| part.subsets.iter().any(|x| x.eq_ignore_ascii_case(s));
            self.subsets.is_empty() || self.subsets.iter().any(listed)
        };
        let place = || format!("{}: {}", self.metadata.display(), audio.aid);
        let (mut segments, mut bad) = (Vec::new(), Vec::new());
        for part in audio.segments.into_iter().filter(wanted) {
            let (begin, end) = (part.begin_time, part.end_time);
            if begin >= 0.0 && end > begin {
                let mut segment = Segment::whole(part.sid, part.text, place());
                (segment.offset, segment.duration) = (begin, Some(end - begin));
                segments.push(segment);
            } else {
                let reason = format!("it begins at {begin} s and ends at {end} s");
                bad.push(Reject { source: place(), id: part.sid, reason });
            }
        }
        let folder = self.metadata.parent().unwrap_or(Path::new(""));
        let sound = Sound::File(folder.join(audio.path));
        if !segments.is_empty() {
            (self.visit)(Found::Recording(Recording { sound, segments }))?;
        }
        bad.into_iter().try_for_each(|reject| (self.visit)(Found::Unusable(reject)))
    }

    /// The list `audios`.
    fn list(&mut self) -> List<'_, Self> {
        List(self)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Root<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Root<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with a list `audios`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "audios" {
                map.next_value_seed(self.list())?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::missing_field("audios")) }
    }
}

struct List<'a, R>(&'a mut R);

impl<'de> DeserializeSeed<'de> for List<'_, Root<'_, '_>> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, Root<'_, '_>> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of recordings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(audio) = list.next_element::<Audio>()? {
            if let Err(failure) = self.0.take(audio) {
                self.0.failure = Some(failure);
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
