//! `echat gpu-check`.

use std::path::PathBuf;

use clap::Args;

use crate::gpu_check::Level;

/// Checks this machine's GPU: every kernel against f64, a training step against the CPU, and how fast they are
#[derive(Debug, Args)]
pub(crate) struct GpuCheckArgs {
    /// Results alone: about a minute
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Results and speed, with the full-size model's steps: under 8 minutes, about 100 GiB of GPU memory and 4 GiB in the temporary directory (the default)
    #[arg(long)]
    full: bool,
    /// Write all that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Which GPU of this machine
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpu: usize,
}

pub(crate) fn run(args: &GpuCheckArgs) -> anyhow::Result<()> {
    let level = if args.quick { Level::Quick } else { Level::Full };
    check(args, level)
}

#[cfg(not(feature = "cuda"))]
fn check(args: &GpuCheckArgs, level: Level) -> anyhow::Result<()> {
    let _ = (level, args.gpu, args.full, &args.json);
    anyhow::bail!("this echat was built without GPUs: ./launch/build-cuda builds one with (docs/cuda.md)")
}

#[cfg(feature = "cuda")]
fn check(args: &GpuCheckArgs, level: Level) -> anyhow::Result<()> {
    use anyhow::Context;
    use echat_kernels::cuda;
    use serde_json::json;

    use crate::gpu_check::{self, Report};

    let device = cuda::open(args.gpu)?;
    let found = cuda::properties(&device)?;
    let gpu = format!("{}, compute capability {}.{}", found.name, found.capability.0, found.capability.1);
    let mut say = |line: &str| drop(super::print(&format!("{line}\n")));
    say(&format!("{gpu}, {:.0} GiB", found.memory as f64 / f64::from(1 << 30)));
    let mut report = Report::new(&mut say);
    let begun = std::time::Instant::now();
    let mut all = json!({ "gpu": gpu, "version": env!("CARGO_PKG_VERSION") });
    let mut written = Ok(());
    // After each part: what is known is not lost with what follows.
    gpu_check::run(&device, level, &mut report, &mut |part, values, failed| {
        all[part] = values;
        all["failed"] = json!(failed);
        all["seconds"] = json!(begun.elapsed().as_secs_f64());
        if let Some(path) = &args.json {
            written =
                std::fs::write(path, format!("{all:#}\n")).with_context(|| format!("cannot write {}", path.display()));
        }
    });
    written?;
    let failed = report.failed().to_vec();
    anyhow::ensure!(failed.is_empty(), "{} checks failed: {}", failed.len(), failed.join("; "));
    super::print(&format!("all checks hold, {:.0} s\n", begun.elapsed().as_secs_f64()))?;
    Ok(())
}
