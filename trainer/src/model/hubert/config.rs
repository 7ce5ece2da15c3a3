//! What the run's TOML and the model's own files say about an encoder.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::mask::Spans;
use super::{HubertConfigError, Result};
use crate::config::section;
use crate::nn::Activation;

section! {
    /// The speech encoder: which HuBERT, and how it trains. What is not given is as in the model's `config.json`.
    pub struct EncoderConfig {
        /// A Hugging Face `HubertModel` directory (`config.json` and weights in any usual form), or a fairseq `.pt` with `config.json` beside it.
        pub path: PathBuf,
        /// Start from random weights of that `config.json`'s shape instead of the directory's.
        pub random_init: bool = false,
        /// Dropout after attention and feed-forward, and of the embedding.
        pub hidden_dropout: Option<f64> = None,
        /// Dropout of attention probabilities.
        pub attention_dropout: Option<f64> = None,
        /// Dropout inside the feed-forward.
        pub activation_dropout: Option<f64> = None,
        /// Dropout of the projected features.
        pub feat_proj_dropout: Option<f64> = None,
        /// Probability that a step skips a Transformer layer.
        pub layerdrop: Option<f64> = None,
        /// Expected share of frames masked in training (an upper bound: spans may overlap); 0 masks nothing.
        pub mask_time_prob: Option<f64> = None,
        /// Frames in a masked span.
        pub mask_time_length: Option<usize> = None,
        /// The fewest spans masked in an utterance.
        pub mask_time_min_masks: Option<usize> = None,
        /// Expected share of features masked in training, whole spans of them for an utterance at a time; 0 masks none.
        pub mask_feature_prob: Option<f64> = None,
        /// Features in a masked span.
        pub mask_feature_length: Option<usize> = None,
        /// The fewest spans of features masked in an utterance.
        pub mask_feature_min_masks: Option<usize> = None,
        /// Keep only each layer's input for backward and compute the layer again: less memory, a third more arithmetic.
        pub recompute: bool = false,
        /// Let the embedding that enters the first Transformer layer join the layer sums.
        pub include_cnn_embedding: bool = false,
        /// Normalise each utterance to zero mean and unit variance; unset: as `preprocessor_config.json` says.
        pub do_normalize: Option<bool> = None,
    }
}

/// A HuBERT: the fields of its `config.json` that this engine acts on (defaults are transformers' own), with the run's
/// settings in their place where it gives any.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The names are Hugging Face's.
pub struct HubertConfig {
    pub model_type: String,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: String,
    pub hidden_dropout: f64,
    pub activation_dropout: f64,
    pub attention_dropout: f64,
    pub feat_proj_layer_norm: bool,
    pub feat_proj_dropout: f64,
    pub layerdrop: f64,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    pub feat_extract_norm: FeatExtractNorm,
    pub feat_extract_activation: String,
    pub conv_dim: Vec<usize>,
    pub conv_stride: Vec<usize>,
    pub conv_kernel: Vec<usize>,
    pub conv_bias: bool,
    pub num_conv_pos_embeddings: usize,
    pub num_conv_pos_embedding_groups: usize,
    pub conv_pos_batch_norm: bool,
    pub do_stable_layer_norm: bool,
    pub adapter_attn_dim: Option<usize>,
    pub apply_spec_augment: bool,
    pub mask_time_prob: f64,
    pub mask_time_length: usize,
    pub mask_time_min_masks: usize,
    pub mask_feature_prob: f64,
    pub mask_feature_length: usize,
    pub mask_feature_min_masks: usize,
    #[serde(skip)]
    pub recompute: bool,
    #[serde(skip)]
    pub include_cnn_embedding: bool,
    #[serde(skip)]
    pub do_normalize: bool,
    /// `config.json` as it was read, for export.
    #[serde(skip)]
    pub source: serde_json::Value,
}

/// How the convolutions are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatExtractNorm {
    /// The first one, each channel over time (base models).
    Group,
    /// Every one, over channels (large models).
    Layer,
}

impl Default for HubertConfig {
    fn default() -> Self {
        Self {
            model_type: "hubert".into(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout: 0.1,
            activation_dropout: 0.1,
            attention_dropout: 0.1,
            feat_proj_layer_norm: true,
            feat_proj_dropout: 0.0,
            layerdrop: 0.1,
            initializer_range: 0.02,
            layer_norm_eps: 1e-5,
            feat_extract_norm: FeatExtractNorm::Group,
            feat_extract_activation: "gelu".into(),
            conv_dim: vec![512; 7],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_bias: false,
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            conv_pos_batch_norm: false,
            do_stable_layer_norm: false,
            adapter_attn_dim: None,
            apply_spec_augment: true,
            mask_time_prob: 0.05,
            mask_time_length: 10,
            mask_time_min_masks: 2,
            mask_feature_prob: 0.0,
            mask_feature_length: 10,
            mask_feature_min_masks: 0,
            recompute: false,
            include_cnn_embedding: false,
            do_normalize: false,
            source: serde_json::Value::Null,
        }
    }
}

impl HubertConfig {
    /// Reads and checks the `config.json` (and `preprocessor_config.json`) of `run.path`, and applies the run's settings.
    pub fn read(run: &EncoderConfig) -> Result<Self> {
        if !run.path.exists() {
            return Err(HubertConfigError::NoFile { path: run.path.clone() });
        }
        let dir = if run.path.is_dir() { &run.path } else { run.path.parent().unwrap_or(Path::new(".")) };
        let path = dir.join("config.json");
        let malformed = |reason: String| HubertConfigError::Config { path: path.clone(), reason };
        let source: serde_json::Value = read_json(&path)?;
        let mut config: Self = serde_json::from_value(source.clone()).map_err(|e| malformed(e.to_string()))?;
        config.check().map_err(malformed)?;
        config.do_normalize = do_normalize(run, dir, &config)?;
        config.source = source;
        config.apply(run)?;
        Ok(config)
    }

    /// The run's settings where it gives any.
    fn apply(&mut self, run: &EncoderConfig) -> Result<()> {
        let rate = |key, given: Option<f64>, default| match given.unwrap_or(default) {
            p if (0.0..1.0).contains(&p) => Ok(p),
            value => {
                Err(HubertConfigError::Setting { key, value, reason: "a probability, at least 0 and less than 1" })
            }
        };
        self.hidden_dropout = rate("hidden_dropout", run.hidden_dropout, self.hidden_dropout)?;
        self.attention_dropout = rate("attention_dropout", run.attention_dropout, self.attention_dropout)?;
        self.activation_dropout = rate("activation_dropout", run.activation_dropout, self.activation_dropout)?;
        self.feat_proj_dropout = rate("feat_proj_dropout", run.feat_proj_dropout, self.feat_proj_dropout)?;
        self.layerdrop = rate("layerdrop", run.layerdrop, self.layerdrop)?;
        let masked = |prob: f64| if self.apply_spec_augment { prob } else { 0.0 };
        let (time, features) = (masked(self.mask_time_prob), masked(self.mask_feature_prob));
        self.mask_time_prob = rate("mask_time_prob", run.mask_time_prob, time)?;
        self.mask_feature_prob = rate("mask_feature_prob", run.mask_feature_prob, features)?;
        self.mask_time_length = run.mask_time_length.unwrap_or(self.mask_time_length);
        self.mask_feature_length = run.mask_feature_length.unwrap_or(self.mask_feature_length);
        self.mask_feature_min_masks = run.mask_feature_min_masks.unwrap_or(self.mask_feature_min_masks);
        if self.mask_time_length == 0 {
            return Err(HubertConfigError::Setting { key: "mask_time_length", value: 0.0, reason: "at least 1 frame" });
        }
        let most = if self.mask_feature_prob > 0.0 { self.hidden_size } else { usize::MAX };
        if !(1..=most).contains(&self.mask_feature_length) {
            let (key, value) = ("mask_feature_length", self.mask_feature_length as f64);
            return Err(HubertConfigError::Setting { key, value, reason: "from 1 to the encoder's hidden_size" });
        }
        self.mask_time_min_masks = run.mask_time_min_masks.unwrap_or(self.mask_time_min_masks);
        (self.recompute, self.include_cnn_embedding) = (run.recompute, run.include_cnn_embedding);
        Ok(())
    }

    /// The spans of features masked in training.
    pub(super) fn feature_mask(&self) -> Spans {
        let Self { mask_feature_prob: prob, mask_feature_length: length, mask_feature_min_masks: min_masks, .. } =
            *self;
        Spans { prob, length, min_masks }
    }

    /// How many tensors the layer sums take: the Transformer layers, and the embedding if configured.
    pub fn summed_layers(&self) -> usize {
        self.num_hidden_layers + usize::from(self.include_cnn_embedding)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let ensure = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        ensure(self.model_type == "hubert", &format!("model_type is `{}`, not `hubert`", self.model_type))?;
        let convs = self.conv_dim.len();
        ensure(
            convs > 0 && self.conv_kernel.len() == convs && self.conv_stride.len() == convs,
            "conv_dim, conv_kernel and conv_stride must be of one length",
        )?;
        let sizes = [self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.intermediate_size];
        let positive = |list: &[usize]| list.iter().all(|&n| n > 0);
        ensure(
            positive(&sizes) && [&self.conv_dim, &self.conv_kernel, &self.conv_stride].into_iter().all(|l| positive(l)),
            "sizes must be positive",
        )?;
        ensure(
            self.hidden_size.is_multiple_of(self.num_attention_heads),
            "hidden_size is not a multiple of num_attention_heads",
        )?;
        ensure(
            self.num_conv_pos_embeddings > 0
                && self.num_conv_pos_embedding_groups > 0
                && self.hidden_size.is_multiple_of(self.num_conv_pos_embedding_groups),
            "hidden_size is not a multiple of num_conv_pos_embedding_groups",
        )?;
        ensure(!self.conv_pos_batch_norm, "conv_pos_batch_norm is not supported (weight norm is)")?;
        ensure(self.adapter_attn_dim.is_none(), "adapter_attn_dim is not supported")?;
        activation(&self.hidden_act).map(drop)?;
        activation(&self.feat_extract_activation).map(drop)
    }

    /// The activation of the convolutions.
    pub(super) fn conv_activation(&self) -> Activation {
        activation(&self.feat_extract_activation).unwrap_or(Activation::Gelu)
    }

    /// The activation of the feed-forward.
    pub(super) fn activation(&self) -> Activation {
        activation(&self.hidden_act).unwrap_or(Activation::Gelu)
    }

    /// Frames that `samples` samples become: 0 if fewer than one receptive field.
    pub fn frames(&self, samples: usize) -> usize {
        self.conv_kernel
            .iter()
            .zip(&self.conv_stride)
            .fold(samples, |len, (&kernel, &stride)| if len < kernel { 0 } else { (len - kernel) / stride + 1 })
    }

    /// Samples from one frame to the next.
    pub fn hop(&self) -> usize {
        self.conv_stride.iter().product()
    }
}

/// Hugging Face's names of activations.
fn activation(name: &str) -> std::result::Result<Activation, String> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        _ => Err(format!("activation `{name}` is not one of gelu, gelu_new, gelu_pytorch_tanh, relu, silu")),
    }
}

/// Whether waveforms are normalised: as the run says, as `preprocessor_config.json` says, or in layer-norm models.
fn do_normalize(run: &EncoderConfig, dir: &Path, model: &HubertConfig) -> Result<bool> {
    #[derive(Deserialize)]
    struct Preprocessor {
        do_normalize: Option<bool>,
    }
    if let Some(given) = run.do_normalize {
        return Ok(given);
    }
    let path = dir.join("preprocessor_config.json");
    let stated = if path.is_file() { read_json::<Preprocessor>(&path)?.do_normalize } else { None };
    Ok(stated.unwrap_or(model.feat_extract_norm == FeatExtractNorm::Layer))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    if !path.is_file() {
        return Err(HubertConfigError::NoFile { path: path.to_owned() });
    }
    let failed = |reason: String| HubertConfigError::Config { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| failed(e.to_string()))
}
