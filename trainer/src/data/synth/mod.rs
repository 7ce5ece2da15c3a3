//! The miniature's corpus: E-chat200-like tuples (question text, response, emotion, question speech), made from recorded
//! syllables and espeak-ng, the same bits for the same configuration on any number of threads.
//!
//! ```text
//! OUT/{train,valid,test_known,test_unseen,pairs,words}.jsonl   manifests
//! OUT/wav/<part>/<id>.wav                                      16 kHz mono i16
//! OUT/text.jsonl                                               text for a decoder
//! OUT/tokenizer/tokenizer.json                                 its vocabulary
//! OUT/corpus.toml                                              the configuration it was made with
//! ```

pub mod config;
pub mod draw;
pub mod error;
pub mod phonetics;
pub mod plan;
pub mod prosody;
pub mod script;
pub mod sound;
pub mod text;
pub mod tokenizer;
pub mod voice;

use crate::data::audio::SAMPLE_RATE;
use crate::data::emotion::Emotion;
use config::SynthConfig;
use error::SynthError;
use plan::{Job, Part, Split};
use prosody::Prosody;
use rayon::prelude::*;
use script::Script;
use serde::Serialize;
use sound::Sound;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use voice::Speaker;

/// One line of a manifest.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Unique in the corpus.
    pub id: String,
    /// Relative to the manifest.
    pub audio_filepath: String,
    /// What is said.
    pub text: String,
    /// What is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// How it is said.
    pub emotion: &'static str,
    /// By whom.
    pub speaker: String,
    /// Seconds.
    pub duration: f64,
}

/// What was made.
#[derive(Debug)]
pub struct Report {
    /// The manifests.
    pub parts: Vec<(Part, Vec<Entry>)>,
    /// Sentences that may be trained on, and held-out ones.
    pub sentences: (usize, usize),
    /// Lines of `text.jsonl`.
    pub text: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Per recorded speaker, the syllables that are said in another tone because theirs was not recorded.
    pub substituted: Vec<(String, Vec<String>)>,
    /// How each emotion sounds in `test_known`.
    pub sounds: Vec<(Emotion, Sound)>,
}

/// How far a corpus is.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// So many utterances will be made.
    Planned(usize),
    /// One more is made.
    Made,
}

/// Makes the corpus in `out`, which must be empty or absent.
pub fn generate(config: &SynthConfig, out: &Path, progress: &(dyn Fn(Progress) + Sync)) -> Result<Report, SynthError> {
    require_empty(out)?;
    let script = Script::load(&config.sentences)?;
    let split = Split::new(config, &script)?;
    let jobs = plan::plan(config, &script, &split);
    let needed: BTreeSet<_> = jobs.iter().flat_map(|job| job.reading.iter().cloned()).collect();
    let speakers =
        config.voice.iter().map(|voice| Speaker::load(config, voice, &needed)).collect::<Result<Vec<_>, _>>()?;

    for part in Part::ALL {
        let directory = out.join("wav").join(part.name());
        std::fs::create_dir_all(&directory).map_err(SynthError::io("create", &directory))?;
    }
    progress(Progress::Planned(jobs.len()));
    let made = jobs
        .par_iter()
        .map(|job| {
            let made = utter(config, &speakers, job, out)?;
            progress(Progress::Made);
            Ok((job, made))
        })
        .collect::<Result<Vec<_>, SynthError>>()?;

    let sounds = Emotion::ALL.map(|emotion| {
        let of = |(job, (_, sound)): &(&Job, (Entry, Option<Sound>))| sound.filter(|_| job.emotion == emotion);
        (emotion, Sound::mean(&made.iter().filter_map(of).collect::<Vec<_>>()))
    });
    let entries = |part| made.iter().filter(|(job, _)| job.part == part).map(|(_, (entry, _))| entry.clone()).collect();
    let parts: Vec<(Part, Vec<Entry>)> = Part::ALL.map(|part| (part, entries(part))).into();
    let text = text::lines(config, &script, &split);
    let vocabulary = tokenizer::write(&out.join("tokenizer"), config, &script)?;
    write_lines(&out.join("text.jsonl"), &text)?;
    let (path, said) = (out.join("corpus.toml"), toml::to_string_pretty(config).map_err(std::io::Error::other));
    said.and_then(|said| std::fs::write(&path, said)).map_err(SynthError::io("write", &path))?;
    for (part, entries) in &parts {
        write_lines(&out.join(format!("{}.jsonl", part.name())), entries)?;
    }
    Ok(Report {
        parts,
        sentences: (split.known.len(), split.unseen.len()),
        text: text.len(),
        vocabulary,
        substituted: substituted(config, &speakers),
        sounds: sounds.into(),
    })
}

/// Speaks one utterance and writes its file.
fn utter(
    config: &SynthConfig,
    speakers: &[Speaker],
    job: &Job,
    out: &Path,
) -> Result<(Entry, Option<Sound>), SynthError> {
    let (voice, mut draws) = (&config.voice[job.voice], job.draws.clone());
    let prosody = Prosody::draw(config.emotion.get(job.emotion), voice.speed, job.reading.len(), &mut draws);
    let speech = speakers[job.voice].say(config, voice, &job.reading, &prosody, &mut draws)?;
    let audio = prosody::finish(&speech, config, &mut draws);
    let audio_filepath = format!("wav/{}/{}.wav", job.part.name(), job.id);
    write_wav(&out.join(&audio_filepath), &audio)?;
    let entry = Entry {
        id: job.id.clone(),
        audio_filepath,
        text: job.text.clone(),
        response: job.response.clone(),
        emotion: job.emotion.name(),
        speaker: voice.name.clone(),
        duration: audio.len() as f64 / f64::from(SAMPLE_RATE),
    };
    let sound = (job.part == Part::TestKnown).then(|| Sound::of(&audio, job.reading.len()));
    Ok((entry, sound))
}

fn require_empty(out: &Path) -> Result<(), SynthError> {
    match std::fs::read_dir(out) {
        Ok(mut inside) => match inside.next() {
            Some(_) => Err(SynthError::NotEmpty(out.into())),
            None => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(SynthError::io("read", out)(error)),
    }
}

fn substituted(config: &SynthConfig, speakers: &[Speaker]) -> Vec<(String, Vec<String>)> {
    let of = |(voice, speaker): (&config::VoiceConfig, &Speaker)| match speaker {
        Speaker::Recorded(r) => Some((voice.name.clone(), r.substituted.iter().map(ToString::to_string).collect())),
        Speaker::Espeak => None,
    };
    config.voice.iter().zip(speakers).filter_map(of).collect()
}

fn write_wav(path: &Path, audio: &[i16]) -> Result<(), SynthError> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let write = || {
        let mut writer = hound::WavWriter::create(path, spec)?;
        audio.iter().try_for_each(|&x| writer.write_sample(x))?;
        writer.finalize()
    };
    write().map_err(|error| {
        let source = match error {
            hound::Error::IoError(source) => source,
            other => std::io::Error::other(other),
        };
        SynthError::io("write", path)(source)
    })
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<(), SynthError> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        for line in lines {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().map_err(SynthError::io("write", path))
}
