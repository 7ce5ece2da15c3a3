//! The speech encoder: Hugging Face `HubertModel`, on packed utterances.
//!
//! Source: transformers `models/hubert/modeling_hubert.py`; `config.json` decides between the base layout (group norm in the first
//! convolution, norms after each block) and the large one (layer norms, norms before each block).

mod config;
mod cost;
mod error;
mod frontend;
mod layer;
mod mask;

use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use echat_kernels::rng;

pub use self::config::{EncoderConfig, FeatExtractNorm, HubertConfig};
pub use self::error::{HubertConfigError, Result};
use self::frontend::{ConvLayer, Projection};
use self::layer::Layer;
use self::mask::Spans;
use super::weights::{self, Init, Loaded, Loader, Manifest, write_json};
use crate::autograd::{self, Param, Tape, Var};
use crate::nn::{self, Dropout, LayerNorm, Packed, PosConv, SeqLens, replace_rows, zero_columns};

/// A HuBERT encoder.
pub struct Hubert {
    convs: Vec<Rc<ConvLayer>>,
    projection: Projection,
    masking: Option<(Spans, Param)>,
    pos_conv: PosConv,
    norm: LayerNorm,
    dropout: Dropout,
    layers: Vec<Rc<Layer>>,
    config: HubertConfig,
    dtype: DType,
}

/// What an encoder makes of packed waveforms.
pub struct Encoded {
    /// What the layer sums take, [`HubertConfig::summed_layers`] of `[t, d]`: the Transformer layers' outputs (in the stable layout
    /// the last is taken after the final norm), behind `cnn` if that is configured to join them.
    pub layers: Vec<Var>,
    /// What enters the first layer, `[t, d]`: the projected convolution features with positions (`hidden_states[0]`).
    pub cnn: Var,
    /// Where each utterance's frames lie.
    pub packed: Packed,
}

impl Hubert {
    /// Builds the encoder `config` describes from `loader`. Parameters are named as in transformers' `HubertModel`; the
    /// convolutions are in [`Group::EncoderFrontend`](autograd::Group), the rest in the loader's group.
    pub fn load(loader: Loader, config: HubertConfig) -> weights::Result<(Self, Loaded)> {
        let convs = ConvLayer::stack(&config, &loader)?;
        let projection = Projection::load(&config, &loader)?;
        let masking = load_masking(&config, &loader)?;
        let scope = loader.pp("encoder");
        let pos_conv = load_pos_conv(&config, &scope.pp("pos_conv_embed.conv"))?;
        let norm = || scope.layer_norm("layer_norm", config.hidden_size, config.layer_norm_eps);
        let layers = || -> weights::Result<Vec<Rc<Layer>>> {
            let layer = |i: usize| Ok(Rc::new(Layer::load(&config, &scope.pp("layers").pp(i))?));
            (0..config.num_hidden_layers).map(layer).collect()
        };
        // In the order forward uses them: the norm stands behind the layers in the stable layout, before them otherwise.
        let (norm, layers) = if config.do_stable_layer_norm {
            let layers = layers()?;
            (norm()?, layers)
        } else {
            (norm()?, layers()?)
        };
        let dropout = Dropout::new(config.hidden_dropout, &scope.registered("dropout"));
        let dtype = loader.dtype();
        let loaded = loader.finish()?;
        let hubert = Self { convs, projection, masking, pos_conv, norm, dropout, layers, config, dtype };
        Ok((hubert, loaded))
    }

    /// What it was built from.
    pub fn config(&self) -> &HubertConfig {
        &self.config
    }

    /// Frames that an utterance of `samples` samples becomes.
    pub fn output_lens(&self, samples: usize) -> usize {
        self.config.frames(samples)
    }

    /// Encodes packed 16 kHz waveforms `[samples, 1]` (through [`normalize`] if `do_normalize`); `packed` says where each lies.
    pub fn forward(&self, tape: &Tape, wave: &Tensor, packed: &Packed) -> autograd::Result<Encoded> {
        let mut x = tape.constant(wave.to_dtype(self.dtype)?);
        let mut seq = packed.seq.clone();
        for conv in &self.convs {
            let out_seq = conv.out_seq(&seq);
            let owned = Rc::clone(conv);
            x = self.block(tape, &x, move |tape, x| owned.forward(tape, x, &seq))?;
            seq = out_seq;
        }
        let frames = packed.with_seq(seq);
        let x = self.projection.forward(tape, &x, &frames)?;
        let x = self.mask(tape, x, &frames)?;
        let cnn = self.embed(tape, &x, &frames)?;
        let mut layers = self.transformer(tape, &cnn, &frames)?;
        if self.config.include_cnn_embedding {
            layers.insert(0, cnn.clone());
        }
        Ok(Encoded { layers, cnn, packed: frames })
    }

    /// Frames are masked first, as in `_mask_hidden_states`: of a masked frame too the masked features are zero.
    fn mask(&self, tape: &Tape, mut x: Var, frames: &Packed) -> autograd::Result<Var> {
        let Some(step) = tape.rng() else { return Ok(x) };
        if let Some((mask, embedding)) = self.masking.as_ref().filter(|(mask, _)| mask.prob > 0.0) {
            x = replace_rows(tape, &x, mask.rows(step, frames).into(), &tape.param(embedding))?;
        }
        let features = self.config.feature_mask();
        if features.prob > 0.0 {
            let columns = features.columns(step, frames, self.config.hidden_size);
            x = zero_columns(tape, &x, &frames.seq, columns.into())?;
        }
        Ok(x)
    }

    /// Adds the positions.
    fn embed(&self, tape: &Tape, x: &Var, frames: &Packed) -> autograd::Result<Var> {
        let positions = self.pos_conv.forward(tape, x, &frames.seq)?;
        let positions = nn::activate(tape, &positions, None, self.config.conv_activation())?;
        let mut x = nn::add(tape, x, &positions)?;
        if !self.config.do_stable_layer_norm {
            x = self.norm.forward(tape, &x)?;
        }
        self.dropout.forward(tape, &x, frames)
    }

    fn transformer(&self, tape: &Tape, x: &Var, frames: &Packed) -> autograd::Result<Vec<Var>> {
        let mut x = x.clone();
        let mut outputs = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            if !self.skips(tape, i) {
                let (layer, frames) = (Rc::clone(layer), frames.clone());
                x = self.block(tape, &x, move |tape, x| layer.forward(tape, x, &frames))?;
            }
            outputs.push(x.clone());
        }
        if self.config.do_stable_layer_norm
            && let Some(last) = outputs.last_mut()
        {
            *last = self.norm.forward(tape, last)?;
        }
        Ok(outputs)
    }

    /// Layer-drop: drawn per step, not per sample, so that every rank and micro-batch skips the same layers.
    fn skips(&self, tape: &Tape, layer: usize) -> bool {
        let site = rng::site(&format!("encoder.encoder.layers.{layer}.layerdrop"));
        tape.rng().is_some_and(|step| rng::uniform(step.stream(site)) < self.config.layerdrop)
    }

    /// Runs `f` on x, recomputed in backward if the run says so.
    fn block(
        &self,
        tape: &Tape,
        x: &Var,
        f: impl Fn(&Tape, &Var) -> autograd::Result<Var> + 'static,
    ) -> autograd::Result<Var> {
        let outputs = tape.block(self.config.recompute, &[x], move |tape, inputs| Ok(vec![f(tape, &inputs[0])?]))?;
        outputs.into_iter().next().ok_or_else(|| autograd::Error::Model("a block gave nothing".into()))
    }

    /// Writes a Hugging Face `HubertModel` directory with the present values of its parameters.
    pub fn export(&self, manifest: &Manifest, dir: &Path) -> weights::Result<()> {
        let mut config = self.config.source.clone();
        config["architectures"] = serde_json::json!(["HubertModel"]);
        config["dtype"] = serde_json::json!(if self.dtype == DType::BF16 { "bfloat16" } else { "float32" });
        manifest.export(dir, &config)?;
        let preprocessor = serde_json::json!({
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": 16000,
            "padding_side": "right",
            "padding_value": 0,
            "do_normalize": self.config.do_normalize,
            "return_attention_mask": self.config.feat_extract_norm == FeatExtractNorm::Layer,
        });
        write_json(&dir.join("preprocessor_config.json"), &preprocessor)
    }
}

/// The mask and its embedding, where the files have one or the run masks.
fn load_masking(config: &HubertConfig, loader: &Loader) -> weights::Result<Option<(Spans, Param)>> {
    if config.mask_time_prob == 0.0 && !loader.contains("masked_spec_embed") {
        return Ok(None);
    }
    let init = Init::Uniform { low: 0.0, high: 1.0 };
    let embedding = loader.optional("masked_spec_embed", &[config.hidden_size], init)?;
    let HubertConfig { mask_time_prob: prob, mask_time_length: length, mask_time_min_masks: min_masks, .. } = *config;
    Ok(Some((Spans { prob, length, min_masks }, embedding)))
}

/// As fairseq initialises it: v normal with std √(4/(k·d)), g its norm, no bias.
fn load_pos_conv(config: &HubertConfig, loader: &Loader) -> weights::Result<PosConv> {
    let (d, k) = (config.hidden_size, config.num_conv_pos_embeddings);
    let groups = config.num_conv_pos_embedding_groups;
    let std = (4.0 / (k * d) as f64).sqrt();
    let norm = std * ((d * d / groups) as f64).sqrt();
    let v = loader.param("weight_v", &[d, d / groups, k], Init::Normal { std })?;
    let g = loader.param("weight_g", &[1, 1, k], Init::Constant(norm as f32))?;
    let bias = loader.param("bias", &[d], Init::ZEROS)?;
    Ok(PosConv { g, v, bias, groups })
}

/// Zero mean and unit variance, `(x - mean)/√(var + 1e-7)`, as `Wav2Vec2FeatureExtractor` does before padding.
pub fn normalize(wave: &mut [f32]) {
    let n = wave.len().max(1) as f64;
    let mean = wave.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = wave.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (var + 1e-7).sqrt();
    wave.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * scale) as f32);
}

/// Packs waveforms for [`Hubert::forward`]: `[samples, 1]`, and where each lies.
pub fn pack(waves: &[&[f32]], samples: &[u64], device: &Device) -> candle_core::Result<(Tensor, Packed)> {
    let seq = SeqLens::from_lens(waves.iter().map(|w| w.len()));
    let wave = Tensor::from_vec(waves.concat(), (seq.total(), 1), device)?;
    Ok((wave, Packed { seq, samples: samples.into() }))
}
