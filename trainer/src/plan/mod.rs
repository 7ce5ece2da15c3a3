//! `echat plan`: what a step of a configuration takes on each rank, from the `config.json` files alone: memory, arithmetic, time, traffic.

mod batch;
mod table;

use std::collections::BTreeSet;

use candle_core::DType;
use serde::Serialize;

pub use batch::{Assumptions, MicroBatch};
pub use table::{memory_line, table};

use crate::autograd::{Group, Params};
use crate::config::RunConfig;
use crate::data::emotion::Emotion;
use crate::model::decoder::Architecture;
use crate::model::echat::{BuildError, Built, Precision, Sections};
use crate::model::hubert::{HubertConfig, HubertConfigError};
use crate::nn::ledger::{Grad, Ledger, Rows};
use crate::optim::OptimizerKind;
use crate::train::TrainGroup;

/// Scratch of cuBLASLt and cuBLAS.
const WORKSPACE: f64 = (64 << 20) as f64;
/// What counts as a GiB.
pub const GIB: f64 = (1u64 << 30) as f64;

/// A plan that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The encoder's `config.json`.
    #[error(transparent)]
    Encoder(#[from] HubertConfigError),
    /// An assumption that cannot be.
    #[error("{0}")]
    Setting(String),
}

/// Parameters of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// How many.
    pub parameters: usize,
    /// How many of them train.
    pub trained: usize,
}

/// Bytes on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// All parameters, in what the model computes in.
    pub weights: f64,
    /// Trained parameters in f32, where they are computed with in another.
    pub masters: f64,
    /// Gradients of parameters, f32.
    pub gradients: f64,
    /// The optimizer's state, f32.
    pub moments: f64,
    /// Activations kept from forward to backward.
    pub activations: f64,
    /// What a recomputed layer keeps while it is differentiated: the largest.
    pub recomputed_layer: f64,
    /// Gradients of activations, the most at a time (estimated).
    pub activation_gradients: f64,
    /// The loss's logits and their gradients, a chunk at a time.
    pub loss: f64,
    /// Scratch of matrix products.
    pub workspace: f64,
}

impl Memory {
    /// Each with its name.
    pub fn rows(&self) -> [(&'static str, f64); 9] {
        [
            ("weights", self.weights),
            ("masters, f32", self.masters),
            ("gradients, f32", self.gradients),
            ("optimizer's moments, f32", self.moments),
            ("activations kept for backward", self.activations),
            ("a layer computed again", self.recomputed_layer),
            ("gradients of activations", self.activation_gradients),
            ("logits of the loss", self.loss),
            ("scratch of products", self.workspace),
        ]
    }

    /// The most in use at a time: the loss's logits are gone when backward begins.
    pub fn total(&self) -> f64 {
        let fixed = self.weights + self.masters + self.gradients + self.moments + self.workspace;
        fixed + self.activations + self.loss.max(self.recomputed_layer + self.activation_gradients)
    }
}

/// A step's arithmetic and time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Micro-batches a rank computes.
    pub micro_batches: usize,
    /// Operations of one micro-batch: 6 for a trained parameter and row, 4 for a frozen one behind something trained, 2 otherwise; attention.
    pub micro_batch_flop: f64,
    /// Operations of a rank.
    pub flop: f64,
    /// Of those, done twice by recomputation (not in `flop`).
    pub recomputed_flop: f64,
    /// Seconds of arithmetic at the assumed rate.
    pub compute_seconds: f64,
    /// Bytes each rank hands to the all-reduce.
    pub reduced_bytes: f64,
    /// Seconds of the all-reduce at the assumed bandwidth.
    pub reduce_seconds: f64,
    /// Those of them that the last micro-batch's backward does not hide.
    pub exposed_seconds: f64,
    /// Both.
    pub seconds: f64,
    /// Hours of speech per hour, of all ranks.
    pub audio_hours_per_hour: f64,
}

/// What a step takes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What was assumed.
    pub assumptions: Assumptions,
    /// What the model computes in.
    pub precision: &'static str,
    /// Parameters by group.
    pub parts: Vec<Part>,
    /// The micro-batch it is for.
    pub micro_batch: MicroBatch,
    /// As configured.
    pub memory: Memory,
    /// Where nothing is recomputed.
    pub memory_kept: Memory,
    /// Where every layer is.
    pub memory_recomputed: Memory,
    /// Arithmetic, time, traffic.
    pub step: Step,
}

/// Makes a plan of `config`.
pub fn plan(config: &RunConfig, assumptions: &Assumptions) -> Result<Plan, Error> {
    assumptions.check()?;
    let sections = Sections {
        model: &config.model,
        encoder: config.encoder.as_ref(),
        connector: &config.connector,
        decoder: &config.decoder,
    };
    let built = Built::shapes(&sections)?;
    let trained = TrainGroup::all(&config.train.groups);
    let parts = parts(&built.params, &trained);
    let architecture = &built.model.decoder.architecture;
    let micro_batch = MicroBatch::of(config, assumptions);
    let cost = |recompute: Option<bool>| cost(config, architecture, &micro_batch, recompute);
    let (as_is, kept, recomputed) = (cost(None)?, cost(Some(false))?, cost(Some(true))?);
    let memory = |ledger: &Ledger| memory(config, architecture, &parts, &micro_batch, ledger);
    Ok(Plan {
        precision: if config.model.precision == Precision::Bf16 { "bf16" } else { "f32" },
        memory: memory(&as_is),
        memory_kept: memory(&kept),
        memory_recomputed: memory(&recomputed),
        step: step(config, assumptions, &micro_batch, &as_is, trained_of(&parts)),
        assumptions: assumptions.clone(),
        parts,
        micro_batch,
    })
}

/// What one micro-batch enters into a ledger; `recompute` overrides the configuration.
pub fn cost(
    config: &RunConfig,
    architecture: &Architecture,
    batch: &MicroBatch,
    recompute: Option<bool>,
) -> Result<Ledger, Error> {
    let trains = TrainGroup::all(&config.train.groups);
    let trains = |group| trains.contains(&group);
    let mut ledger = Ledger::new(element(config));
    let mut speech = vec![0; batch.targets.len()];
    let mut heard = false;
    if let Some(encoder) = &config.encoder {
        let mut encoder = HubertConfig::read(encoder)?;
        encoder.recompute = recompute.unwrap_or(encoder.recompute);
        let mut connector = config.connector.clone();
        connector.recompute = recompute.unwrap_or(connector.recompute);
        let (front, rest) = (trains(Group::EncoderFrontend), trains(Group::Encoder));
        let cached = !config.data.cache.as_os_str().is_empty() && !rest;
        // A frozen encoder's features are taken from the cache: what it costs to make them is not the step's.
        let mut apart = Ledger::new(element(config));
        let into = if cached { &mut apart } else { &mut ledger };
        let frames = encoder.cost(into, &batch.samples, [front, rest]);
        let grad = Grad { x: rest, w: trains(Group::Connector) };
        let (d, d_llm) = (encoder.hidden_size, architecture.hidden);
        speech = connector.cost(&mut ledger, &frames, [d, d_llm], grad);
        heard = grad.any();
        if config.model.emotion {
            emotion_cost(&mut ledger, speech.len(), [encoder.summed_layers(), d, d_llm], trains(Group::Emotion), rest);
            heard |= trains(Group::Emotion) || rest;
            speech.iter_mut().for_each(|len| *len += 1);
        }
    }
    let read = speech.iter().zip(&batch.targets).map(|(speech, target)| speech + batch.prompt + target - 1);
    let labelled = batch.targets.iter().sum::<usize>() as f64;
    let grad = Grad { x: heard, w: trains(Group::Decoder) };
    architecture.cost(&mut ledger, &Rows::of(read), labelled, grad, recompute.unwrap_or(config.decoder.recompute));
    Ok(ledger)
}

/// The emotion branch over `n` utterances: the layers' means, their sum, three small layers.
fn emotion_cost(ledger: &mut Ledger, n: usize, [layers, d, d_llm]: [usize; 3], trains: bool, heard: bool) {
    let (n, grad) = (n as f64, Grad { x: trains || heard, w: trains });
    ledger.keep(grad.any(), n, layers * d);
    ledger.keep(grad.any(), 3.0 * n, d);
    ledger.linear(n, d, d, grad);
    ledger.linear(n, d, d_llm, grad.next());
    ledger.linear(n, d, Emotion::ALL.len(), grad.next());
}

/// Bytes of an element of an activation.
fn element(config: &RunConfig) -> usize {
    match config.model.precision {
        Precision::F32 => DType::F32.size_in_bytes(),
        Precision::Bf16 => DType::BF16.size_in_bytes(),
    }
}

fn parts(params: &Params, trained: &BTreeSet<Group>) -> Vec<Part> {
    let groups = [
        ("encoder's convolutions", Group::EncoderFrontend),
        ("encoder", Group::Encoder),
        ("connector", Group::Connector),
        ("emotion branch", Group::Emotion),
        ("decoder", Group::Decoder),
    ];
    let part = |(name, group)| {
        let parameters = params.elements(group);
        Part { name, parameters, trained: if trained.contains(&group) { parameters } else { 0 } }
    };
    groups.into_iter().map(part).filter(|part| part.parameters > 0).collect()
}

fn trained_of(parts: &[Part]) -> f64 {
    parts.iter().map(|part| part.trained).sum::<usize>() as f64
}

fn memory(config: &RunConfig, a: &Architecture, parts: &[Part], batch: &MicroBatch, ledger: &Ledger) -> Memory {
    let (all, trained) = (parts.iter().map(|part| part.parameters).sum::<usize>() as f64, trained_of(parts));
    let element = element(config);
    let moments = match config.optimizer.kind {
        OptimizerKind::Adamw => 2.0,
        OptimizerKind::Sgd if config.optimizer.momentum > 0.0 => 1.0,
        OptimizerKind::Sgd => 0.0,
    };
    Memory {
        weights: all * element as f64,
        masters: if element == 4 { 0.0 } else { 4.0 * trained },
        gradients: 4.0 * trained,
        moments: 4.0 * moments * trained,
        activations: ledger.kept,
        recomputed_layer: ledger.block,
        activation_gradients: ledger.gradients,
        loss: a.loss_bytes(batch.targets.iter().sum(), element) as f64,
        workspace: WORKSPACE,
    }
}

fn step(config: &RunConfig, assumed: &Assumptions, batch: &MicroBatch, ledger: &Ledger, trained: f64) -> Step {
    let ranks = assumed.ranks as f64;
    let of_a_rank = config.data.global_batch_seconds / ranks;
    let micro_batches = (of_a_rank / batch.seconds).ceil().max(1.0);
    let times = of_a_rank / batch.seconds;
    let rate = assumed.tflops * 1e12;
    let compute_seconds = times * (ledger.flops + ledger.again) / rate;
    let reduced_bytes = if assumed.ranks > 1 { 4.0 * trained } else { 0.0 };
    // A ring: every byte is sent and received twice, but for a rank's own share.
    let reduce_seconds = 2.0 * (ranks - 1.0) / ranks * reduced_bytes / (assumed.bandwidth * 1e9);
    let backward = times / micro_batches * (ledger.flops + ledger.again - ledger.forward) / rate;
    let exposed_seconds = (reduce_seconds - backward).max(0.0);
    let seconds = compute_seconds + exposed_seconds;
    Step {
        micro_batches: micro_batches as usize,
        micro_batch_flop: ledger.flops,
        flop: times * ledger.flops,
        recomputed_flop: times * ledger.again,
        compute_seconds,
        reduced_bytes,
        reduce_seconds,
        exposed_seconds,
        seconds,
        audio_hours_per_hour: config.data.global_batch_seconds / seconds,
    }
}
