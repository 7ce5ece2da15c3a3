//! `echat plan`.

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{ConfigFile, print};
use crate::config::{RunConfig, load};
use crate::plan::{Assumptions, GIB, plan, table};

/// Foretells what a step takes on each rank, without a GPU, data or weights: memory, arithmetic, time, traffic. Of the models it reads
/// `config.json` alone
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Ranks, a GPU each
    #[arg(long, value_name = "N", default_value_t = Assumptions::default().ranks)]
    ranks: usize,
    /// GiB of a GPU's memory; may be repeated [default: 80 and 141]
    #[arg(long, value_name = "GIB")]
    gpu_memory: Vec<f64>,
    /// 10^12 operations a second that a rank achieves; the default is what good trainers reach on an H100 or H200 in bf16, and no measurement
    #[arg(long, value_name = "N", default_value_t = Assumptions::default().tflops)]
    tflops: f64,
    /// GB a second that a rank sends in the all-reduce, and as much receives
    #[arg(long, value_name = "N", default_value_t = Assumptions::default().bandwidth)]
    bandwidth: f64,
    /// Seconds of speech in an utterance (WenetSpeech's mean)
    #[arg(long, value_name = "SECONDS", default_value_t = Assumptions::default().utterance_seconds)]
    utterance: f64,
    /// Target tokens in a second of speech
    #[arg(long, value_name = "N", default_value_t = Assumptions::default().tokens_per_second)]
    tokens: f64,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let config = load::<RunConfig>(&args.config.path, &args.config.overrides.sets)?.config;
    let assumptions = Assumptions {
        ranks: args.ranks,
        tflops: args.tflops,
        bandwidth: args.bandwidth,
        utterance_seconds: args.utterance,
        tokens_per_second: args.tokens,
    };
    let plan = plan(&config, &assumptions)?;
    let gpus = if args.gpu_memory.is_empty() { &[80.0, 141.0][..] } else { &args.gpu_memory };
    let text = if args.json {
        let mut all = serde_json::to_value(&plan)?;
        all["total_bytes"] = json!(plan.memory.total());
        let fits = |gib: &f64| json!({ "gib": gib, "fits": plan.memory.total() <= gib * GIB });
        all["gpus"] = gpus.iter().map(fits).collect();
        format!("{all:#}\n")
    } else {
        table(&plan, gpus)
    };
    print(&text).context("cannot write to standard output")
}
