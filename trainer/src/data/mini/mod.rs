//! The miniature: everyday sentences with responses in five emotions, and the voices that say them, from recorded syllables and
//! espeak-ng. `echat synth` makes the corpus of the two, as it makes E-chat200 of other texts with other voices.
//!
//! ```text
//! OUT/{train,valid,test_known,test_unseen,pairs,words}.jsonl   emotion-labelled texts with responses
//! OUT/text.jsonl                                               text for a decoder
//! OUT/tokenizer/tokenizer.json                                 its vocabulary
//! OUT/corpus.toml                                              the configuration it was made with
//! ```

pub mod config;
pub mod error;
pub mod phonetics;
pub mod plan;
pub mod prosody;
pub mod script;
pub mod sound;
pub mod speak;
pub mod text;
pub mod tokenizer;
pub mod voice;

use config::MiniConfig;
use error::MiniError;
use plan::{Job, Part, Split};
use script::Script;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// One line of a part: what `echat synth` reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Unique in the corpus.
    pub id: String,
    /// What is said.
    pub text: String,
    /// What is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// How it is said.
    pub emotion: &'static str,
    /// By whom.
    pub voice: String,
    /// The text in pinyin, as heteronyms have to be told.
    pub spoken: String,
}

/// What was written.
#[derive(Debug)]
pub struct Report {
    /// The parts.
    pub parts: Vec<(Part, Vec<Entry>)>,
    /// Sentences that may be trained on, and held-out ones.
    pub sentences: (usize, usize),
    /// Lines of `text.jsonl`.
    pub text: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
}

/// Writes the texts to `out`, which must be empty or absent.
pub fn write_texts(config: &MiniConfig, out: &Path) -> Result<Report, MiniError> {
    require_empty(out)?;
    let script = Script::load(&config.sentences)?;
    let split = Split::new(config, &script)?;
    let jobs = plan::plan(config, &script, &split);
    let entries = |part| jobs.iter().filter(|job| job.part == part).map(|job| entry(config, job)).collect();
    let parts: Vec<(Part, Vec<Entry>)> = Part::ALL.map(|part| (part, entries(part))).into();
    let text = text::lines(config, &script, &split);
    let vocabulary = tokenizer::write(&out.join("tokenizer"), config, &script)?;
    write_lines(&out.join("text.jsonl"), &text)?;
    let (path, said) = (out.join("corpus.toml"), toml::to_string_pretty(config).map_err(std::io::Error::other));
    said.and_then(|said| std::fs::write(&path, said)).map_err(MiniError::io("write", &path))?;
    for (part, entries) in &parts {
        write_lines(&out.join(format!("{}.jsonl", part.name())), entries)?;
    }
    Ok(Report { parts, sentences: (split.known.len(), split.unseen.len()), text: text.len(), vocabulary })
}

fn entry(config: &MiniConfig, job: &Job) -> Entry {
    Entry {
        id: job.id.clone(),
        text: job.text.clone(),
        response: job.response.clone(),
        emotion: job.emotion.name(),
        voice: config.voice[job.voice].name.clone(),
        spoken: job.reading.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

fn require_empty(out: &Path) -> Result<(), MiniError> {
    match std::fs::read_dir(out) {
        Ok(mut inside) => match inside.next() {
            Some(_) => Err(MiniError::NotEmpty(out.into())),
            None => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(MiniError::io("read", out)(error)),
    }
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<(), MiniError> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        for line in lines {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().map_err(MiniError::io("write", path))
}
