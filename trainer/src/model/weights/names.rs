//! What a file's tensors are called in the model.

/// How the tensor names of a kind of checkpoint map to the model's.
#[derive(Clone, Copy)]
pub struct Naming {
    /// The model's name of a file's tensor.
    pub rename: fn(&str) -> String,
    /// Whether a tensor (by its renamed name) that the model does not use is no cause for a warning.
    pub ignorable: fn(&str) -> bool,
}

/// Names are what they are.
pub const VERBATIM: Naming = Naming { rename: str::to_owned, ignorable: |_| false };

/// `HubertModel`'s names, from `HubertModel`, models around it (`hubert.…`) and fairseq. The positional convolution's weight norm is
/// `weight_g`, `weight_v`, which every version of transformers reads.
pub const HUBERT: Naming = Naming { rename: hubert, ignorable: hubert_ignorable };

/// Causal language models: rotary tables are computed, not read.
pub const DECODER: Naming = Naming { rename: str::to_owned, ignorable: |name| name.ends_with("rotary_emb.inv_freq") };

/// transformers' conversion table for HuBERT (fairseq's name, `HubertModel`'s), for whole first segments.
const FAIRSEQ_TOP: [(&str, &str); 3] = [
    ("post_extract_proj.", "feature_projection.projection."),
    ("layer_norm.", "feature_projection.layer_norm."),
    ("mask_emb", "masked_spec_embed"),
];

/// The same, inside a Transformer layer.
const FAIRSEQ_LAYER: [(&str, &str); 4] = [
    ("self_attn.", "attention."),
    ("self_attn_layer_norm.", "layer_norm."),
    ("fc1.", "feed_forward.intermediate_dense."),
    ("fc2.", "feed_forward.output_dense."),
];

fn hubert(key: &str) -> String {
    let key = ["hubert.", "w2v_encoder.w2v_model."].iter().find_map(|p| key.strip_prefix(p)).unwrap_or(key);
    if let Some(name) = replace_prefix(key, &FAIRSEQ_TOP) {
        return name;
    }
    if let Some(rest) = key.strip_prefix("feature_extractor.conv_layers.")
        && let Some((layer, rest)) = rest.split_once('.')
    {
        let rest = replace_prefix(rest, &[("0.", "conv."), ("2.1.", "layer_norm."), ("2.", "layer_norm.")])
            .unwrap_or_else(|| rest.to_owned());
        return format!("feature_extractor.conv_layers.{layer}.{rest}");
    }
    if let Some(rest) = key.strip_prefix("encoder.layers.")
        && let Some((layer, rest)) = rest.split_once('.')
    {
        let rest = replace_prefix(rest, &FAIRSEQ_LAYER).unwrap_or_else(|| rest.to_owned());
        return format!("encoder.layers.{layer}.{rest}");
    }
    let pos_conv = key.strip_prefix("encoder.pos_conv.0.").or_else(|| key.strip_prefix("encoder.pos_conv_embed.conv."));
    match pos_conv {
        Some("parametrizations.weight.original0") => "encoder.pos_conv_embed.conv.weight_g".into(),
        Some("parametrizations.weight.original1") => "encoder.pos_conv_embed.conv.weight_v".into(),
        Some(rest) => format!("encoder.pos_conv_embed.conv.{rest}"),
        None => key.to_owned(),
    }
}

fn replace_prefix(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
}

/// Heads of pre-training and fine-tuning, which an encoder has no use for.
fn hubert_ignorable(name: &str) -> bool {
    name == "label_embs_concat"
        || ["final_proj.", "lm_head.", "classifier.", "projector.", "w2v_encoder.proj."]
            .iter()
            .any(|head| name.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::{HUBERT, hubert};

    #[test]
    fn fairseq_and_weight_norm_names_become_hubert_models() {
        for (file, model) in [
            ("post_extract_proj.weight", "feature_projection.projection.weight"),
            ("layer_norm.bias", "feature_projection.layer_norm.bias"),
            ("mask_emb", "masked_spec_embed"),
            ("feature_extractor.conv_layers.3.0.weight", "feature_extractor.conv_layers.3.conv.weight"),
            ("feature_extractor.conv_layers.3.2.1.bias", "feature_extractor.conv_layers.3.layer_norm.bias"),
            ("feature_extractor.conv_layers.0.2.weight", "feature_extractor.conv_layers.0.layer_norm.weight"),
            ("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.weight_g"),
            ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv_embed.conv.weight_g"),
            ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv_embed.conv.weight_v"),
            ("encoder.layers.11.self_attn.out_proj.bias", "encoder.layers.11.attention.out_proj.bias"),
            ("encoder.layers.0.self_attn_layer_norm.weight", "encoder.layers.0.layer_norm.weight"),
            ("encoder.layers.0.fc1.weight", "encoder.layers.0.feed_forward.intermediate_dense.weight"),
            ("encoder.layers.0.fc2.bias", "encoder.layers.0.feed_forward.output_dense.bias"),
            ("encoder.layer_norm.weight", "encoder.layer_norm.weight"),
            ("hubert.encoder.layers.0.final_layer_norm.bias", "encoder.layers.0.final_layer_norm.bias"),
        ] {
            assert_eq!(hubert(file), model);
            assert_eq!(hubert(model), model, "a HubertModel name stays as it is");
        }
        assert!((HUBERT.ignorable)("label_embs_concat") && !(HUBERT.ignorable)("encoder.layers.0.extra"));
    }
}
