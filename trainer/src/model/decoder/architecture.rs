//! What a decoder's `config.json` says, for the families echat knows.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A `config.json` that is not one of a supported decoder.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// Cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Is not what was expected.
    #[error("{}: {problem}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Sizes and switches of a decoder-only Transformer with RMS norm, rotary positions and SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Width.
    pub hidden: usize,
    /// Width of the feed-forward.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// RMS norm's epsilon.
    pub rms_eps: f64,
    /// Rotary frequencies, `[head_dim / 2]`.
    pub inv_freq: Vec<f32>,
    /// The output head is the embedding table.
    pub tie_embeddings: bool,
    /// Query, key and value projections have biases (Qwen2).
    pub qkv_bias: bool,
    /// The output projection has one (LLaMA with `attention_bias`).
    pub o_bias: bool,
    /// The feed-forward has biases (LLaMA with `mlp_bias`).
    pub mlp_bias: bool,
    /// Queries and keys are normalised per head (Qwen3).
    pub qk_norm: bool,
    /// One packed projection `W_pack` (Baichuan).
    pub packed_qkv: bool,
    /// Rows of the output head are L2-normalised (Baichuan2's NormHead).
    pub norm_head: bool,
    /// End of sequence, from `eos_token_id` (the first, if a list).
    pub eos: Option<u32>,
    /// Begin of sequence.
    pub bos: Option<u32>,
}

#[derive(Deserialize)]
struct File {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    hidden_act: Option<String>,
    norm_head: Option<bool>,
    z_loss_weight: Option<f64>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

fn default_eps() -> f64 {
    1e-6
}

/// Baichuan2's vocabulary; Baichuan 1 (64,000) has a plain head.
const BAICHUAN2_VOCAB: usize = 125_696;

impl Architecture {
    /// Reads `dir/config.json`.
    pub fn read(dir: &Path) -> Result<Self, ArchitectureError> {
        let path = dir.join("config.json");
        let text =
            std::fs::read_to_string(&path).map_err(|source| ArchitectureError::Read { path: path.clone(), source })?;
        Self::parse(&text).map_err(|problem| ArchitectureError::Invalid { path, problem })
    }

    /// Parses the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|e| format!("not a decoder's config.json: {e}"))?;
        let family = file.model_type.as_str();
        if !matches!(family, "baichuan" | "llama" | "qwen2" | "qwen3") {
            return Err(format!("model_type \"{family}\" is not supported; known: baichuan, llama, qwen2, qwen3"));
        }
        if family == "baichuan" && file.max_position_embeddings.is_none() {
            return Err("this is a Baichuan with ALiBi positions (13B), which is not supported; use the 7B".into());
        }
        if file.use_sliding_window == Some(true) {
            return Err("use_sliding_window = true is not supported".into());
        }
        if let Some(act) = file.hidden_act.as_deref()
            && act != "silu"
        {
            return Err(format!("hidden_act \"{act}\" is not supported; expected silu"));
        }
        let (heads, hidden) = (file.num_attention_heads, file.hidden_size);
        let kv_heads = file.num_key_value_heads.unwrap_or(heads);
        let head_dim = file.head_dim.unwrap_or(hidden / heads.max(1));
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2) {
            return Err(format!("{heads} heads over {kv_heads} key heads of width {head_dim} do not fit together"));
        }
        let baichuan = family == "baichuan";
        let norm_head = file.norm_head.unwrap_or(file.z_loss_weight.is_some() || file.vocab_size == BAICHUAN2_VOCAB);
        let eos = match file.eos_token_id {
            Some(Ids::One(id)) => Some(id),
            Some(Ids::Many(ref ids)) => ids.first().copied(),
            None => None,
        };
        Ok(Self {
            hidden,
            intermediate: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads,
            kv_heads,
            head_dim,
            vocab: file.vocab_size,
            max_positions: file.max_position_embeddings.unwrap_or(2048),
            rms_eps: file.rms_norm_eps,
            inv_freq: inv_freq(&file, head_dim)?,
            tie_embeddings: file.tie_word_embeddings.unwrap_or(false),
            qkv_bias: family == "qwen2" || file.attention_bias.unwrap_or(false),
            o_bias: family != "qwen2" && file.attention_bias.unwrap_or(false),
            mlp_bias: file.mlp_bias.unwrap_or(false),
            qk_norm: family == "qwen3",
            packed_qkv: baichuan,
            norm_head: baichuan && norm_head,
            eos,
            bos: file.bos_token_id,
        })
    }
}

/// Rotary frequencies (transformers' `modeling_rope_utils.py`: default, linear, llama3).
fn inv_freq(file: &File, head_dim: usize) -> Result<Vec<f32>, String> {
    let rope = file.rope_parameters.as_ref().or(file.rope_scaling.as_ref());
    let theta = rope.and_then(|r| r.rope_theta).or(file.rope_theta).unwrap_or(10_000.0);
    let base = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
    let kind = rope.and_then(|r| r.rope_type.as_deref()).unwrap_or("default");
    let need = |value: Option<f64>, key: &str| value.ok_or(format!("rope type \"{kind}\" needs `{key}`"));
    let scaled: Vec<f64> = match (kind, rope) {
        ("linear", Some(r)) => {
            let factor = need(r.factor, "factor")?;
            base.map(|f| f / factor).collect()
        }
        ("llama3", Some(r)) => {
            let factor = need(r.factor, "factor")?;
            let (low, high) =
                (need(r.low_freq_factor, "low_freq_factor")?, need(r.high_freq_factor, "high_freq_factor")?);
            let old = need(r.original_max_position_embeddings.map(|n| n as f64), "original_max_position_embeddings")?;
            base.map(|f| {
                let wavelength = std::f64::consts::TAU / f;
                let smooth = ((old / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * f / factor + smooth * f
            })
            .collect()
        }
        ("default", _) => base.collect(),
        (other, _) => return Err(format!("rope type \"{other}\" is not supported; known: default, linear, llama3")),
    };
    Ok(scaled.into_iter().map(|f| f as f32).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Architecture;

    const BASE: &str = r#""hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 100, "max_position_embeddings": 128"#;

    fn parse(family: &str, more: &str) -> Result<Architecture, String> {
        Architecture::parse(&format!(r#"{{"model_type": "{family}", {BASE}{more}}}"#))
    }

    #[test]
    fn families_differ_where_they_should() {
        let baichuan = parse("baichuan", r#", "z_loss_weight": 0"#).unwrap();
        assert!(baichuan.packed_qkv && baichuan.norm_head && !baichuan.qkv_bias);
        assert!(!parse("baichuan", "").unwrap().norm_head, "Baichuan 1 has a plain head");
        let qwen2 = parse("qwen2", r#", "num_key_value_heads": 2"#).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.o_bias && qwen2.kv_heads == 2 && !qwen2.packed_qkv);
        let qwen3 = parse("qwen3", r#", "head_dim": 32"#).unwrap();
        assert!(qwen3.qk_norm && qwen3.head_dim == 32 && !qwen3.qkv_bias);
        assert_eq!(parse("llama", r#", "eos_token_id": [7, 9]"#).unwrap().eos, Some(7));
    }

    #[test]
    fn an_unknown_family_alibi_windows_and_rope_types_are_refused() {
        assert!(parse("gpt2", "").unwrap_err().contains("known: baichuan"));
        assert!(parse("qwen2", r#", "use_sliding_window": true"#).unwrap_err().contains("sliding"));
        assert!(parse("llama", r#", "rope_scaling": {"rope_type": "yarn"}"#).unwrap_err().contains("yarn"));
        assert!(parse("llama", r#", "num_key_value_heads": 3"#).unwrap_err().contains("3 key heads"));
        let alibi = r#"{"model_type": "baichuan", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100}"#;
        assert!(Architecture::parse(alibi).unwrap_err().contains("ALiBi"));
    }
}
