//! Models of fixed sizes with random weights and random speech: a tiny one for comparisons, the paper's for timing.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use echat_kernels::rng;
use echat_kernels::step_control::Decision;
use serde_json::json;

use super::Error;
use super::scratch::Scratch;
use crate::autograd::{Buckets, StepRng};
use crate::data::audio::SAMPLE_RATE;
use crate::data::text::{Layout, Part};
use crate::dist::{Solo, World};
use crate::model::connector::ConnectorConfig;
use crate::model::decoder::DecoderConfig;
use crate::model::echat::{Batch, Built, ModelConfig, Precision, Sections, Speech};
use crate::model::hubert::EncoderConfig;
use crate::nn::{Packed, SeqLens};
use crate::optim::{Optimizer, OptimizerConfig};
use crate::train::{LossScale, Outcome, Sums, TrainGroup, Work, accumulate, target_tokens};

/// Which model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// A few thousand parameters.
    Tiny,
    /// HuBERT-large, the 52M connector, Baichuan2-7B.
    Full,
}

/// What is trained, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) size: Size,
    /// 1 or 2.
    pub(super) stage: u8,
    pub(super) precision: Precision,
    /// Seconds of speech in a micro-batch.
    pub(super) micro_batch_seconds: f64,
    pub(super) micro_batches: usize,
    /// Whether layers are computed again in backward.
    pub(super) recompute: bool,
}

/// A model in training, and a step's speech.
pub(super) struct Training {
    pub(super) built: Built,
    pub(super) buckets: Buckets,
    pub(super) layout: Layout,
    pub(super) batches: Vec<Batch>,
    optimizer: Optimizer,
    scale: LossScale,
    /// Of speech, in a step.
    pub(super) seconds: f64,
}

/// What a step gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stepped {
    pub(super) sums: Sums,
    pub(super) work: Work,
    pub(super) norm: f64,
}

impl Training {
    pub(super) fn new(task: &Task, device: &Device) -> Result<Self, Error> {
        let files = Files::write(task.size)?;
        let encoder: EncoderConfig = toml::from_str(&format!(
            "path = {:?}\nrandom_init = true\nrecompute = {}\ndo_normalize = true\n",
            files.encoder(),
            task.recompute
        ))
        .map_err(|e| Error::Setup(e.to_string()))?;
        let tiny = ConnectorConfig { width: 32, layers: 1, heads: 2, ffn: 48, ..ConnectorConfig::default() };
        let connector = ConnectorConfig {
            recompute: task.recompute,
            ..if task.size == Size::Tiny { tiny } else { ConnectorConfig::default() }
        };
        let decoder = DecoderConfig { path: files.decoder(), random_init: true, recompute: task.recompute };
        let model = ModelConfig { precision: task.precision, emotion: task.stage == 2, ..ModelConfig::default() };
        let sections = Sections { model: &model, encoder: Some(&encoder), connector: &connector, decoder: &decoder };
        let setup = |e: crate::model::echat::BuildError| Error::Setup(e.to_string());
        let groups = match task.stage {
            1 => [TrainGroup::Encoder, TrainGroup::Connector],
            _ => [TrainGroup::Connector, TrainGroup::Emotion],
        };
        let mut built = Built::new(&sections, &TrainGroup::all(&groups), device).map_err(setup)?;
        let buckets = built.params.lay_out(64 << 20)?;
        built.model.decoder.settle()?;
        let settings = OptimizerConfig::default();
        let optimizer = Optimizer::new(&settings, &buckets).map_err(|e| Error::Setup(e.to_string()))?;
        let vocab = built.model.decoder.architecture.vocab as u32;
        let batches: Vec<Batch> =
            (0..task.micro_batches).map(|i| batch(task, i as u64, vocab)).collect::<Result<_, _>>()?;
        let prompt = (0..6).map(|i| 100 % vocab + i).collect();
        let layout = Layout { parts: vec![Part::Bos(1), Part::Emotion, Part::Speech, Part::Tokens(prompt)] };
        let (scale, seconds) = (LossScale::new(0.0, 0.0, 0.0), 0.0);
        let mut training = Self { built, buckets, layout, batches: Vec::new(), optimizer, scale, seconds };
        training.take(batches, task.stage);
        Ok(training)
    }

    /// Makes `batches` the next steps' speech.
    pub(super) fn take(&mut self, batches: Vec<Batch>, stage: u8) {
        let utterances: usize = batches.iter().map(|b| b.targets.len()).sum();
        let samples: usize = batches.iter().map(|b| b.packed.seq.total()).sum();
        let alpha = if stage == 2 { 0.1 } else { 0.0 };
        self.scale = LossScale::new(alpha, target_tokens(&batches) as f64, utterances as f64);
        self.seconds = samples as f64 / f64::from(SAMPLE_RATE);
        self.batches = batches;
    }

    /// Forward and backward of step `step`; the gradients stay in the buckets.
    pub(super) fn differentiate(&mut self, step: u64) -> Result<(crate::train::Tally, Work), Error> {
        let mut solo = Solo::new(World::single("gpu-check"));
        let (rng, scale) = (StepRng::new(0, step), self.scale);
        let model = &self.built.model;
        Ok(accumulate(model, &self.layout, &self.buckets, &mut solo, &self.batches, rng, scale)?)
    }

    /// Asks for step `step`, as the trainer does.
    pub(super) fn ask(&mut self, step: u64) -> Result<(Outcome, Work), Error> {
        let (tally, work) = self.differentiate(step)?;
        let decision = self.update()?;
        Ok((tally.send_for(&decision)?, work))
    }

    /// Step `step` from its beginning to its end.
    pub(super) fn step(&mut self, step: u64) -> Result<Stepped, Error> {
        let (outcome, work) = self.ask(step)?;
        let (sums, decided) = outcome.read()?;
        Ok(Stepped { sums, work, norm: decided.norm })
    }

    /// Updates the parameters by the gradients; returns the optimizer's decision.
    pub(super) fn update(&mut self) -> Result<Tensor, Error> {
        let failed = |e: crate::optim::Error| Error::Setup(e.to_string());
        let decision = self.optimizer.decide(&self.buckets).map_err(failed)?;
        self.optimizer.step(&self.buckets, 1.0, Decision::Made(&decision)).map_err(failed)?;
        Ok(decision)
    }
}

/// The `config.json` files that sizes are read from.
struct Files(Scratch);

impl Files {
    fn write(size: Size) -> Result<Self, Error> {
        let files = Self(Scratch::new("sizes")?);
        let (encoder, decoder) = match size {
            Size::Tiny => (tiny_encoder(), tiny_decoder()),
            Size::Full => (hubert_large(), baichuan2()),
        };
        let write = |dir: &Path, config: &serde_json::Value| {
            std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::write(dir.join("config.json"), config.to_string()))
                .map_err(|e| Error::Setup(format!("{}: {e}", dir.display())))
        };
        write(&files.encoder(), &encoder)?;
        write(&files.decoder(), &decoder)?;
        Ok(files)
    }

    fn encoder(&self) -> PathBuf {
        self.0.0.join("encoder")
    }

    fn decoder(&self) -> PathBuf {
        self.0.0.join("decoder")
    }
}

/// TencentGameMate/chinese-hubert-large.
fn hubert_large() -> serde_json::Value {
    json!({
        "model_type": "hubert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "conv_bias": false, "feat_extract_norm": "layer", "do_stable_layer_norm": true, "layerdrop": 0.0,
    })
}

/// baichuan-inc/Baichuan2-7B-Chat.
fn baichuan2() -> serde_json::Value {
    json!({
        "model_type": "baichuan", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "hidden_act": "silu", "vocab_size": 125_696, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "z_loss_weight": 0, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// All that the large one has, in small: widths that are and are not whole packs, heads of both kinds.
fn tiny_encoder() -> serde_json::Value {
    json!({
        "model_type": "hubert", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 72,
        "conv_dim": [16, 16, 16, 16, 16, 16, 16], "conv_bias": true, "feat_extract_norm": "layer", "do_stable_layer_norm": true,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_length": 3,
    })
}

fn tiny_decoder() -> serde_json::Value {
    json!({
        "model_type": "baichuan", "hidden_size": 64, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 2,
        "hidden_act": "silu", "vocab_size": 211, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "z_loss_weight": 0, "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// The length of an utterance in seconds, as WenetSpeech has them: log-normal of median 2.1 s and mean 2.5 s, 0.5 to 20 s.
pub(super) fn seconds_of(key: u64) -> f64 {
    let (u, v) = (rng::uniform(key), rng::uniform(rng::key(key, 1)));
    let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    (2.1 * (0.59 * normal).exp()).clamp(0.5, 20.0)
}

/// Micro-batch `number`: utterances of three and a half target tokens a second.
fn batch(task: &Task, number: u64, vocab: u32) -> Result<Batch, Error> {
    let stream = rng::key(rng::site("gpu-check"), number);
    let (mut lens, mut targets, mut emotions) = (Vec::new(), Vec::new(), Vec::new());
    let mut left = task.micro_batch_seconds;
    for i in 0.. {
        let key = rng::key(stream, i);
        let seconds = seconds_of(key).min(left.max(0.5));
        lens.push((seconds * f64::from(SAMPLE_RATE)) as usize);
        let token = |j| (rng::uniform(rng::key(key, 2 + j)) * f64::from(vocab - 3)) as u32 + 3;
        let count = (3.5 * seconds).ceil() as u64;
        targets.push((0..count).map(token).chain([2]).collect());
        emotions.push((i % 5) as u32);
        left -= seconds;
        if left <= 0.0 {
            break;
        }
    }
    let seq = SeqLens::from_lens(lens);
    let samples: Vec<u64> = (0..seq.count() as u64).map(|i| rng::key(stream, 1 << 40 | i)).collect();
    let wave: Vec<f32> =
        (0..seq.total()).map(|t| 3.4 * (rng::uniform(rng::key(stream, 1 << 41 | t as u64)) as f32 - 0.5)).collect();
    let wave = Tensor::from_vec(wave, (seq.total(), 1), &Device::Cpu).map_err(crate::autograd::Error::from)?;
    if task.stage != 2 {
        emotions.clear();
    }
    Ok(Batch {
        ids: Vec::new(),
        speech: Speech::Waves(wave),
        packed: Packed { seq, samples: samples.into() },
        contexts: Vec::new(),
        targets,
        emotions,
    })
}
