//! The shapes of a tiny HuBERT and a tiny Baichuan, and a tokenizer of single characters.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::corpus::CHARACTERS;

/// Special tokens; their ids are their places.
const SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// Writes `encoder/` and `decoder/` below `root`.
pub fn write(root: &Path) {
    let mut tokens: Vec<String> = SPECIAL.map(String::from).to_vec();
    tokens.extend((' '..='~').chain(CHARACTERS.chars()).map(String::from));
    put(&root.join("encoder/config.json"), &encoder());
    put(&root.join("decoder/config.json"), &decoder(tokens.len()));
    put(&root.join("decoder/tokenizer.json"), &tokenizer(&tokens));
    let names =
        json!({"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[3]});
    put(&root.join("decoder/tokenizer_config.json"), &names);
}

fn put(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{value:#}\n")).unwrap();
}

fn encoder() -> Value {
    json!({
        "model_type": "hubert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": [16, 16, 16, 16, 16, 16, 16],
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "conv_bias": false,
        "feat_extract_norm": "layer",
        "feat_extract_activation": "gelu",
        "feat_proj_layer_norm": true,
        "do_stable_layer_norm": true,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout": 0.0,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "mask_time_length": 10,
    })
}

fn decoder(vocab: usize) -> Value {
    json!({
        "model_type": "baichuan",
        "architectures": ["BaichuanForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": vocab,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "z_loss_weight": 0,
    })
}

fn tokenizer(tokens: &[String]) -> Value {
    let ids: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let special = |(id, token): (usize, &&str)| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?s)."}, "behavior": "Isolated", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": SPECIAL[0]},
    })
}
