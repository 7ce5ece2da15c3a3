//! `echat export`.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use candle_core::{Device, Tensor};
use clap::Args;
use echat_launch::World;

use super::trained::{Trained, TrainedArgs};
use crate::train::set_threads;

/// Writes a trained model for other tools: the encoder as a Hugging Face `HubertModel`, the rest as safetensors
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    trained: TrainedArgs,
    /// Where to: `encoder/`, `decoder/` (with --decoder) and `echat.safetensors` (connector, emotion branch, layer weights)
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Also writes the decoder as a Hugging Face directory (after decoder training)
    #[arg(long)]
    decoder: bool,
}

/// What a decoder directory holds besides weights and `config.json`.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "added_tokens.json",
];

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let (config, checkpoint) = args.trained.config()?;
    set_threads(config.output.threads, &World::from_env()?)?;
    let filled = fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(!filled, "{} is not empty: give a new directory", args.out.display());
    let trained = Trained::unsettled(config, &checkpoint, &Device::Cpu)?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let built = &trained.model.built;
    if let (Some(speech), Some(manifest)) = (&built.model.speech, &built.encoder) {
        speech.encoder.export(manifest, &args.out.join("encoder"))?;
    }
    let rest: HashMap<String, Tensor> = built
        .params
        .iter()
        .filter(|p| !p.name().starts_with("encoder.") && !p.name().starts_with("decoder."))
        .map(|p| (p.name().to_owned(), p.tensor()))
        .collect();
    if !rest.is_empty() {
        candle_core::safetensors::save(&rest, args.out.join("echat.safetensors"))?;
    }
    if args.decoder {
        let (from, to) = (&trained.config.decoder.path, args.out.join("decoder"));
        let file = from.join("config.json");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let config = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        built.decoder.export(&to, &config)?;
        for name in TOKENIZER_FILES.iter().filter(|name| from.join(name).exists()) {
            fs::copy(from.join(name), to.join(name)).with_context(|| format!("cannot copy {name}"))?;
        }
    }
    println!("wrote {}", args.out.display());
    Ok(())
}
