//! The first pass: what there is, and how it is cut into parts.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::sources::{Found, Recording, Segment, Sound, Source, Visit};
use super::{PrepareError, PrepareOptions, audio_bytes};
use crate::data::corpus::Reject;

/// How long an utterance is taken to be when its source does not say; an ordinary one of a read corpus.
const USUAL_SECONDS: f64 = 5.0;
/// Bytes an utterance needs besides audio and text: its offsets, emotion and checksum.
const OVERHEAD: usize = 64;

/// What the first pass found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Utterances of each part, usable or not.
    pub(super) parts: Vec<u64>,
    /// Utterances whose id came before, by their number among all that have a recording.
    pub(super) duplicates: BTreeSet<u64>,
    /// SHA-256 of ids, transcripts and times.
    pub(super) sha256: String,
}

impl Plan {
    /// Utterances, usable or not.
    pub(super) fn total(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// Cuts a corpus into parts as it passes by.
struct Cutter {
    limit: usize,
    part: usize,
    bytes: usize,
}

impl Cutter {
    /// The part `recording` belongs to.
    fn place(&mut self, recording: &Recording) -> usize {
        let bytes = expected_bytes(recording, USUAL_SECONDS);
        if self.bytes > 0 && self.bytes + bytes > self.limit {
            self.part += 1;
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.part
    }
}

/// What `recording` will need in a shard, its utterances taken to be of `usual` seconds where their source does not say.
pub(super) fn expected_bytes(recording: &Recording, usual: f64) -> usize {
    let of = |segment: &Segment| {
        let seconds = if recording.sound == Sound::None { 0.0 } else { segment.duration.unwrap_or(usual) };
        audio_bytes(seconds).saturating_add(segment.id.len() + segment.text.len() + OVERHEAD)
    };
    recording.segments.iter().map(of).fold(0, usize::saturating_add)
}

/// Goes through all sources. `visit` is given the part, the number of the first utterance among those with a recording, and what was found, its
/// transcripts by the rules of its source.
pub(super) fn walk(
    sources: &[Source],
    options: &PrepareOptions,
    visit: &mut dyn FnMut(usize, u64, Found) -> Result<(), PrepareError>,
) -> Result<(), PrepareError> {
    let mut cutter = Cutter { limit: options.shard_bytes, part: 0, bytes: 0 };
    let mut number = 0;
    for source in sources {
        let mut with_place: Box<Visit> = Box::new(|mut found| {
            let (mut part, first) = (cutter.part, number);
            if let Found::Recording(recording) = &mut found {
                for segment in &mut recording.segments {
                    segment.text = source.rules.apply(&segment.text);
                }
                part = cutter.place(recording);
                number += recording.segments.len() as u64;
            }
            visit(part, first, found)
        });
        source.each(&mut *with_place)?;
    }
    Ok(())
}

/// The plan for `sources`.
pub(super) fn scan(sources: &[Source], options: &PrepareOptions) -> Result<Plan, PrepareError> {
    let (mut plan, mut ids, mut untranscribed) =
        (Plan { parts: Vec::new(), duplicates: BTreeSet::new(), sha256: String::new() }, Ids::default(), 0);
    let (mut hash, mut recorded, mut unusable) = (Sha256::new(), 0u64, None);
    walk(sources, options, &mut |part, first, found| {
        let count = match found {
            Found::Recording(recording) => {
                for (i, segment) in recording.segments.iter().enumerate() {
                    if !ids.insert(&segment.id) {
                        plan.duplicates.insert(first + i as u64);
                    }
                    digest(&mut hash, segment);
                }
                recorded += recording.segments.len() as u64;
                recording.segments.len() as u64
            }
            Found::Unusable(reject) => {
                hash.update(&reject.id);
                unusable.get_or_insert(reject);
                1
            }
            Found::Untranscribed(count) => {
                untranscribed += count;
                0
            }
        };
        if count > 0 {
            plan.parts.resize(plan.parts.len().max(part + 1), 0);
            plan.parts[part] += count;
        }
        Ok(())
    })?;
    if recorded == 0 {
        return Err(empty(sources, untranscribed, unusable));
    }
    plan.sha256 = format!("{:x}", HexBytes(&hash.finalize()));
    Ok(plan)
}

/// Bytes in hexadecimal.
struct HexBytes<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn empty(sources: &[Source], untranscribed: u64, unusable: Option<Reject>) -> PrepareError {
    let what = sources.iter().map(|s| s.path.display().to_string()).collect::<Vec<_>>().join(", ");
    let hint = match unusable {
        Some(reject) => format!("; for one, {}: {}", reject.source, reject.reason),
        None if untranscribed > 0 => format!(", but {untranscribed} recordings without a transcript"),
        None => String::new(),
    };
    PrepareError::Empty { what, hint }
}

fn digest(hash: &mut Sha256, segment: &Segment) {
    let none = String::new();
    let text = [&segment.id, &segment.text]
        .into_iter()
        .chain([&segment.response, &segment.speaker, &segment.context].map(|x| x.as_ref().unwrap_or(&none)));
    for text in text {
        hash.update(text);
        hash.update([0]);
    }
    hash.update(segment.offset.to_le_bytes());
    hash.update(segment.duration.unwrap_or(-1.0).to_le_bytes());
    hash.update([segment.emotion.map_or(255, |e| e as u8)]);
}

/// The ids met so far, as hashes: of 15 million the chance that two are mistaken for each other is 10⁻⁵.
#[derive(Default)]
struct Ids(HashSet<u64>);

impl Ids {
    /// False if `id` came before.
    fn insert(&mut self, id: &str) -> bool {
        self.0.insert(echat_kernels::rng::mix(echat_kernels::rng::site(id)))
    }
}

/// An utterance as `--show` prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// As it will be.
    pub segment: Segment,
    /// Its transcript as it is written.
    pub written: String,
}

/// What a corpus holds, before anything is decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Utterances with a recording and a transcript, or text-only.
    pub utterances: u64,
    /// Recordings they lie in.
    pub recordings: u64,
    /// Seconds of those whose source says so.
    pub seconds: f64,
    /// Utterances whose source does not say how long they are.
    pub unmeasured: u64,
    /// Recordings without a transcript, as published.
    pub untranscribed: u64,
    /// Utterances whose id came before.
    pub duplicates: u64,
    /// How many cannot be used, as far as the transcripts tell.
    pub unusable: u64,
    /// The first of them.
    pub rejects: Vec<Reject>,
    /// The first utterances.
    pub examples: Vec<Example>,
}

/// Looks at the transcripts of `sources`, keeping the first `show` utterances and as many that cannot be used.
pub fn survey(sources: &[Source], show: usize) -> Result<Survey, PrepareError> {
    let (mut survey, mut ids) = (Survey::default(), Ids::default());
    for source in sources {
        source.each(&mut |found| {
            match found {
                Found::Untranscribed(count) => survey.untranscribed += count,
                Found::Unusable(reject) => {
                    survey.unusable += 1;
                    if survey.rejects.len() < show {
                        survey.rejects.push(reject);
                    }
                }
                Found::Recording(recording) => {
                    survey.recordings += u64::from(recording.sound != Sound::None);
                    for segment in recording.segments {
                        survey.take(segment, recording.sound == Sound::None, source, show, &mut ids);
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(survey)
}

impl Survey {
    fn take(&mut self, mut segment: Segment, text_only: bool, source: &Source, show: usize, ids: &mut Ids) {
        self.utterances += 1;
        self.duplicates += u64::from(!ids.insert(&segment.id));
        match segment.duration {
            Some(seconds) => self.seconds += seconds,
            None => self.unmeasured += u64::from(!text_only),
        }
        if self.examples.len() < show {
            let normal = source.rules.apply(&segment.text);
            let written = std::mem::replace(&mut segment.text, normal);
            self.examples.push(Example { segment, written });
        }
    }
}
