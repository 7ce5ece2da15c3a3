//! The second pass: this rank's parts, each decoded on all threads and written as one shard.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use echat_launch::World;
use rayon::prelude::*;

use super::plan::{Plan, expected_bytes, walk};
use super::sources::{Found, Recording, Segment, Sound, Source};
use super::state::{Record, file_len, give_up, read_record, write_record};
use super::{PrepareError, PrepareOptions, Progress, Unusable};
use crate::data::audio::{self, AudioError, Clip, Input, SAMPLE_RATE};
use crate::data::corpus::Reject;
use crate::data::shard::ShardWriter;
use crate::data::utterance::Utterance;

/// One part's recordings and what is known to be unusable, in order.
#[derive(Default)]
struct Part {
    items: Vec<Item>,
}

enum Item {
    /// A recording, and which of its utterances have an id that came before.
    Recording(Recording, Vec<bool>),
    Unusable(Reject),
}

/// A segment's samples, or why there are none.
type Samples = Result<Vec<i16>, Unusable>;

/// Makes this rank's parts that are not done yet: every `world.size`-th, beginning with the rank's number.
pub(super) fn make_share(
    sources: &[Source],
    out: &Path,
    plan: &Plan,
    options: &PrepareOptions,
    world: &World,
    progress: &mut dyn FnMut(&Progress),
) -> Result<(), PrepareError> {
    let (mut mine, mut rejects) = (vec![false; plan.parts.len()], Vec::new());
    for part in (world.rank..plan.parts.len()).step_by(world.size) {
        match read_record(out, part)? {
            Some(record) => rejects.extend(record.rejects),
            None => mine[part] = true,
        }
    }
    let total = plan.parts.iter().zip(&mine).filter(|(_, mine)| **mine).map(|(count, _)| count).sum();
    let mut maker = Maker { out, plan, options, progress, so_far: Progress { total, ..Progress::default() }, rejects };
    let (mut current, mut number) = (Part::default(), 0);
    walk(sources, options, &mut |part, first, found| {
        if part != number {
            if mine[number] {
                maker.make(number, std::mem::take(&mut current))?;
            }
            number = part;
        }
        match mine.get(part) {
            Some(true) => current.take(found, first, plan),
            Some(false) => {}
            None => return Err(PrepareError::Changed { out: out.into(), part }),
        }
        Ok(())
    })?;
    if number + 1 != mine.len() {
        return Err(PrepareError::Changed { out: out.into(), part: number + 1 });
    }
    if mine[number] { maker.make(number, current) } else { Ok(()) }
}

impl Part {
    /// Its utterances, usable or not.
    fn len(&self) -> u64 {
        let of = |item: &Item| match item {
            Item::Recording(recording, _) => recording.segments.len() as u64,
            Item::Unusable(_) => 1,
        };
        self.items.iter().map(of).sum()
    }

    fn take(&mut self, found: Found, first: u64, plan: &Plan) {
        match found {
            Found::Untranscribed(_) => {}
            Found::Unusable(reject) => self.items.push(Item::Unusable(reject)),
            Found::Recording(recording) => {
                let numbers = first..first + recording.segments.len() as u64;
                let duplicates = numbers.map(|n| plan.duplicates.contains(&n)).collect();
                self.items.push(Item::Recording(recording, duplicates));
            }
        }
    }
}

/// Makes one part after the other.
struct Maker<'a> {
    out: &'a Path,
    plan: &'a Plan,
    options: &'a PrepareOptions,
    progress: &'a mut dyn FnMut(&Progress),
    so_far: Progress,
    rejects: Vec<Reject>,
}

impl Maker<'_> {
    fn make(&mut self, number: usize, part: Part) -> Result<(), PrepareError> {
        if part.len() != self.plan.parts[number] {
            return Err(PrepareError::Changed { out: self.out.into(), part: number });
        }
        let mut writer = ShardWriter::part(self.out, number, self.options.shard_bytes);
        let mut record = Record::default();
        for portion in portions(&part.items, self.options) {
            let decoded: Vec<Vec<Samples>> = portion.par_iter().map(|item| decode(item, self.options)).collect();
            for (item, samples) in portion.iter().zip(decoded) {
                match item {
                    Item::Unusable(reject) => self.reject(reject.clone(), &mut record)?,
                    Item::Recording(recording, _) => {
                        for (segment, samples) in recording.segments.iter().zip(samples) {
                            self.utterance(segment, samples, &mut writer, &mut record)?;
                        }
                    }
                }
            }
            (self.progress)(&self.so_far);
        }
        record.shards = writer.finish_part()?;
        record.bytes =
            record.shards.iter().map(|s| file_len(&self.out.join(&s.file))).collect::<Result<_, PrepareError>>()?;
        write_record(self.out, number, &record)
    }

    fn utterance(
        &mut self,
        segment: &Segment,
        samples: Samples,
        writer: &mut ShardWriter,
        record: &mut Record,
    ) -> Result<(), PrepareError> {
        match samples {
            Ok(samples) => {
                self.so_far.done += 1;
                self.so_far.seconds += samples.len() as f64 / f64::from(SAMPLE_RATE);
                Ok(writer.push(&Utterance {
                    id: &segment.id,
                    text: &segment.text,
                    response: segment.response.as_deref(),
                    emotion: segment.emotion,
                    speaker: segment.speaker.as_deref(),
                    context: segment.context.as_deref(),
                    audio: samples.into(),
                })?)
            }
            Err(e) => {
                let (source, id) = (segment.place.clone(), segment.id.clone());
                self.reject(Reject { source, id, reason: e.to_string() }, record)
            }
        }
    }

    fn reject(&mut self, reject: Reject, record: &mut Record) -> Result<(), PrepareError> {
        self.so_far.done += 1;
        self.so_far.rejected += 1;
        self.rejects.push(reject.clone());
        record.rejects.push(reject);
        give_up(self.out, self.plan, &self.rejects, self.options)
    }
}

/// Runs of items that are decoded side by side before they are written: no more of them than fill a shard, however long they turn out to be.
fn portions<'a>(mut items: &'a [Item], options: &PrepareOptions) -> Vec<&'a [Item]> {
    let mut portions = Vec::new();
    while !items.is_empty() {
        let mut bytes = 0;
        let fits = items.iter().take_while(|item| {
            if let Item::Recording(recording, _) = item {
                bytes = expected_bytes(recording, options.max_seconds).saturating_add(bytes);
            }
            bytes <= options.shard_bytes
        });
        let (portion, rest) = items.split_at(fits.count().max(1));
        portions.push(portion);
        items = rest;
    }
    portions
}

/// What becomes of an item's utterances.
fn decode(item: &Item, options: &PrepareOptions) -> Vec<Samples> {
    let Item::Recording(recording, duplicates) = item else { return Vec::new() };
    let mut results: Vec<Option<Samples>> =
        recording.segments.iter().zip(duplicates).map(|(s, &d)| judge(s, d)).collect();
    let wanted: Vec<usize> = (0..results.len()).filter(|&i| results[i].is_none()).collect();
    let clips: Vec<Clip> = wanted.iter().map(|&i| clip(&recording.segments[i], options)).collect();
    for (i, cut) in wanted.into_iter().zip(cut(&recording.sound, &clips)) {
        results[i] = Some(cut.map_err(Unusable::from).and_then(|samples| measure(samples, &recording.sound, options)));
    }
    results.into_iter().map(|r| r.unwrap_or(Err(Unusable::NoText))).collect()
}

/// What is wrong with an utterance before its recording is looked at.
fn judge(segment: &Segment, duplicate: bool) -> Option<Samples> {
    match () {
        () if duplicate => Some(Err(Unusable::DuplicateId)),
        () if segment.text.is_empty() && segment.response.is_none() => Some(Err(Unusable::NoText)),
        () => None,
    }
}

fn measure(samples: Vec<i16>, sound: &Sound, options: &PrepareOptions) -> Samples {
    let (seconds, min) = (samples.len() as f64 / f64::from(SAMPLE_RATE), options.min_seconds);
    match *sound != Sound::None && seconds < min {
        true => Err(Unusable::TooShort { seconds, min }),
        false => Ok(samples),
    }
}

fn clip(segment: &Segment, options: &PrepareOptions) -> Clip {
    Clip { offset: segment.offset, duration: segment.duration, max_seconds: Some(options.max_seconds) }
}

fn cut(sound: &Sound, clips: &[Clip]) -> Vec<Result<Vec<i16>, AudioError>> {
    match sound {
        _ if clips.is_empty() => Vec::new(),
        Sound::None => clips.iter().map(|_| Ok(Vec::new())).collect(),
        Sound::File(path) => audio::cut(Input::File(path), clips),
        Sound::Member { archive, name, start, len } => {
            let name = archive.join(name);
            match member(archive, *start, *len) {
                Ok(bytes) => audio::cut(Input::Bytes { name: &name, bytes: &bytes }, clips),
                Err(e) => {
                    let error = AudioError::Unreadable { path: name, source: e.into() };
                    clips.iter().map(|_| Err(error.clone())).collect()
                }
            }
        }
    }
}

/// The bytes of an archive's member.
fn member(archive: &Path, start: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(archive)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
