//! `echat chat`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use echat_launch::World;

use super::trained::{Trained, TrainedArgs};
use crate::data::audio::{self, Clip};
use crate::data::{Emotion, Packing, Utterance};
use crate::eval::{Prompted, prompt};
use crate::model::echat::{Batch, Speech};
use crate::model::generate::{GenerationDefaults, Sampling, generate};
use crate::nn::Packed;
use crate::train::set_threads;

/// Answers recordings: prints what emotion it hears and streams the response
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// Recordings in any common format (wav, flac, ogg, mp3, m4a)
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: &ChatArgs) -> anyhow::Result<()> {
    let world = World::from_env()?;
    let (config, checkpoint) = args.trained.config()?;
    set_threads(config.output.threads, &world)?;
    let trained = Trained::load(config, &checkpoint, &world)?;
    anyhow::ensure!(trained.model.built.model.speech.is_some(), "this checkpoint is a text decoder: it cannot listen");
    let defaults = GenerationDefaults::read(&trained.config.decoder.path)?;
    let sampling = Sampling::new(&trained.config.generation, &defaults)?;
    for file in &args.files {
        if args.files.len() > 1 {
            writeln!(io::stdout(), "{}", file.display())?;
        }
        answer(&trained, &sampling, file)?;
    }
    Ok(())
}

fn answer(trained: &Trained, sampling: &Sampling, file: &Path) -> anyhow::Result<()> {
    let prompted = listen(trained, file)?;
    let mut out = io::stdout();
    if let Some(shares) = prompted.emotions.as_ref().and_then(|e| e.first()) {
        let shares: Vec<String> =
            Emotion::ALL.iter().zip(shares).map(|(e, p)| format!("{} {:.0} %", e.name(), 100.0 * p)).collect();
        writeln!(out, "[{}]", shares.join(", "))?;
    }
    let examples = &trained.model.examples;
    let mut stream = examples.tokenizer.decode_stream();
    let mut failed = None;
    let mut say = |_: usize, token: u32| {
        if failed.is_none() {
            let said = stream.push(token).map_err(anyhow::Error::from);
            failed = said.and_then(|text| Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)).err();
        }
    };
    generate(&trained.model.built.model.decoder, &prompted.input, sampling, &examples.stops, &mut say)?;
    if let Some(error) = failed {
        return Err(error);
    }
    writeln!(io::stdout(), "{}", stream.finish()?)?;
    Ok(())
}

/// Decodes and encodes one recording.
fn listen(trained: &Trained, file: &Path) -> anyhow::Result<Prompted> {
    let samples = audio::load(file, &Clip::default())?;
    let spoken = Utterance {
        id: "chat",
        text: "",
        response: None,
        emotion: None,
        speaker: None,
        context: None,
        audio: samples.into(),
    };
    let mut packing = Packing::new(spoken.audio.len(), trained.model.normalizes());
    packing.push(0, &spoken);
    let utterances = packing.finish()?;
    let batch = Batch {
        ids: vec![file.display().to_string()],
        speech: Speech::Waves(utterances.waves),
        packed: Packed { seq: utterances.wave_lens, samples: utterances.keys.into() },
        contexts: Vec::new(),
        targets: Vec::new(),
        emotions: Vec::new(),
    };
    Ok(prompt(&trained.model.built.model, &batch, &trained.model.examples.layout)?)
}
