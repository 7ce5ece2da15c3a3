//! The large model's steps as training does them: one asked for before the last is done, by speech that comes from shards.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;
use echat_kernels::rng;
use serde_json::{Value, json};

use super::model::{Task, Training, seconds_of};
use super::scratch::Scratch;
use super::{Error, Report, wait};
use crate::data::audio::SAMPLE_RATE;
use crate::data::shard::ShardWriter;
use crate::data::text::{PromptConfig, Tokenizer};
use crate::data::{Corpus, DataConfig, Loader, LoaderOptions, Sampler, Target, Utterance};
use crate::dist::{Solo, World};
use crate::train::Examples;

/// Steps of a run: before time is taken, and timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) warm: u64,
    pub(super) timed: u64,
}

/// Words of the corpus: few enough for a tiny model's vocabulary.
const WORDS: u64 = 200;
/// The first words of the vocabulary, which are not the corpus's.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Trains `training` on from where it is, and tells how long the device was kept waiting for speech.
pub(super) fn run(
    training: &mut Training,
    task: &Task,
    steps: Steps,
    device: &Device,
    report: &mut Report,
) -> Result<Value, Error> {
    let scratch = Scratch::new("shards")?;
    write(&scratch.0, (steps.warm + steps.timed) as f64 * task.micro_batch_seconds)?;
    let (loader, examples) = open(&scratch.0, task, steps)?;
    let (mut begun, mut waited, mut seconds, mut latest) = (Instant::now(), Duration::ZERO, 0.0, None);
    for (step, data) in loader.enumerate() {
        if step as u64 == steps.warm {
            wait(device)?;
            (begun, waited, seconds) = (Instant::now(), Duration::ZERO, 0.0);
        }
        let data = data.map_err(setup)?;
        let batches = data.batches.iter().map(|utterances| examples.batch(utterances)).collect::<Result<_, _>>()?;
        training.take(batches, task.stage);
        let (outcome, _) = training.ask(step as u64)?;
        if let Some(previous) = latest.replace(outcome) {
            previous.read()?;
        }
        waited += data.waited;
        seconds += data.seconds;
    }
    wait(device)?;
    let took = begun.elapsed().as_secs_f64();
    let Some((sums, _)) = latest.map(crate::train::Outcome::read).transpose()? else { return Ok(Value::Null) };
    let (rate, share) = (seconds / took, waited.as_secs_f64() / took);
    let name = format!("stage {}, {:?}, from shards", task.stage, task.size);
    report.is(&format!("{name}: the loss is finite"), sums.decoder().is_finite());
    report.say(&format!(
        "       {name}: {} steps of {:.0} s in {:.1} ms each: {rate:.0} audio-h/GPU-h, {:.2} % of the time waiting for data",
        steps.timed,
        seconds / steps.timed as f64,
        took * 1e3 / steps.timed as f64,
        100.0 * share
    ));
    Ok(json!({
        "stage": task.stage, "steps": steps.timed, "seconds_of_speech": seconds, "step_ms": took * 1e3 / steps.timed as f64,
        "audio_hours_per_gpu_hour": rate, "data_wait": share, "loss": sums.decoder(),
    }))
}

fn setup(error: impl std::fmt::Display) -> Error {
    Error::Setup(error.to_string())
}

/// A corpus of noise of at least so many seconds, and a tokenizer for it.
fn write(dir: &Path, seconds: f64) -> Result<(), Error> {
    let vocabulary: serde_json::Map<String, Value> =
        (0..).map(|i: u64| json!(i)).zip(words()).map(|(id, word)| (word, id)).collect();
    let tokenizer = json!({
        "version": "1.0", "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": SPECIAL[0] },
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).map_err(setup)?;
    let mut writer = ShardWriter::create(&dir.join("corpus"), 64 << 20).map_err(setup)?;
    let (stream, mut written) = (rng::key(rng::site("gpu-check"), 1 << 32), 0.0);
    for i in 0.. {
        let key = rng::key(stream, i);
        let length = seconds_of(key);
        let audio = (0..(length * f64::from(SAMPLE_RATE)) as u64).map(|t| rng::key(key, t) as i16 >> 2).collect();
        let text: Vec<String> =
            (0..(3.5 * length).ceil() as u64).map(|j| word(rng::key(key, 1 << 32 | j) % WORDS)).collect();
        let utterance = Utterance {
            id: &format!("{i}"),
            text: &text.join(" "),
            response: None,
            emotion: None,
            speaker: None,
            context: None,
            audio: Cow::Owned(audio),
        };
        writer.push(&utterance).map_err(setup)?;
        written += length;
        if written > seconds {
            break;
        }
    }
    writer.finish().map_err(setup)?;
    Ok(())
}

fn word(i: u64) -> String {
    format!("w{i}")
}

fn words() -> impl Iterator<Item = String> {
    SPECIAL.into_iter().map(str::to_owned).chain((0..WORDS).map(word))
}

fn open(dir: &Path, task: &Task, steps: Steps) -> Result<(Loader, Examples), Error> {
    let data = DataConfig {
        train: vec![dir.join("corpus")],
        global_batch_seconds: task.micro_batch_seconds * task.micro_batches as f64,
        micro_batch_seconds: task.micro_batch_seconds,
        ..DataConfig::default()
    };
    let mut solo = Solo::new(World::single("gpu-check"));
    let corpus = Corpus::open_for(&data.train, &data, &mut solo).map_err(setup)?;
    let sampler = Sampler::new(Arc::clone(corpus.costs()), corpus.groups(), &data.sampler_options(0));
    let options = LoaderOptions::new(&data, 0, &corpus.placement().ranks, true);
    let loader = Loader::new(Arc::new(corpus), None, Arc::new(sampler), &options, 0..steps.warm + steps.timed);
    let tokenizer = Tokenizer::load(dir).map_err(setup)?;
    // The model has its own layout; this one only counts the targets.
    let prompt = PromptConfig { template: "{speech}".into(), ..PromptConfig::default() };
    let examples = Examples::new(tokenizer, &prompt, Target::Text, Some(2), false, true)?;
    Ok((loader.map_err(setup)?, examples))
}
