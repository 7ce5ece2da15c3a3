//! The large model's steps: time, speech per hour, arithmetic, memory, and where the time goes.

use std::time::Instant;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::model::{Size, Task, Training};
use super::speed::Ceilings;
use super::stream::{self, Steps};
use super::{Error, Report, wait};
use crate::autograd::{StepRng, Tape};
use crate::model::echat::Precision;

/// Steps before time is taken, and timed ones.
const WARM: u64 = 3;
const TIMED: u64 = 8;
/// Of speech, in a micro-batch.
const SECONDS: f64 = 240.0;

pub(super) fn run(device: &Device, ceilings: &Ceilings, report: &mut Report) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for stage in [1, 2] {
        let (precision, micro_batches) = (Precision::Bf16, 1);
        let task =
            Task { size: Size::Full, stage, precision, micro_batch_seconds: SECONDS, micro_batches, recompute: false };
        forget_peak(device)?;
        let begun = Instant::now();
        let mut training = Training::new(&task, device)?;
        wait(device)?;
        report.say(&format!("       stage {stage}, full size: built in {:.1} s", begun.elapsed().as_secs_f64()));
        let mut row = stage_row(&mut training, stage, device, ceilings, report)?;
        if stage == 1 {
            let steps = Steps { warm: WARM, timed: TIMED };
            row["from_shards"] = stream::run(&mut training, &task, steps, device, report)?;
        }
        rows.push(row);
    }
    Ok(Value::Array(rows))
}

fn stage_row(
    training: &mut Training,
    stage: u8,
    device: &Device,
    ceilings: &Ceilings,
    report: &mut Report,
) -> Result<Value, Error> {
    for step in 0..WARM {
        training.step(step)?;
    }
    let held = peak(device)?;
    let (mut times, mut last) = (Vec::new(), None);
    for step in WARM..WARM + TIMED {
        wait(device)?;
        let begun = Instant::now();
        last = Some(training.step(step)?);
        wait(device)?;
        times.push(begun.elapsed().as_secs_f64());
    }
    let Some(last) = last else { return Ok(Value::Null) };
    let grown = peak(device)?.saturating_sub(held);
    times.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    let (rate, hours) = (last.work.flops / seconds, training.seconds / seconds);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    report.is(
        &format!("stage {stage}, full size: loss and gradient are finite"),
        last.norm.is_finite() && last.sums.decoder().is_finite(),
    );
    report.is(&format!("stage {stage}, full size: memory does not grow from step to step"), grown == 0);
    report.say(&format!(
        "       stage {stage}, full size: {:.0} s of speech in {:.1} ms ({:.1} to {:.1}): {hours:.0} audio-h/GPU-h, {:.0} TFLOP/s, \
         {:.1} % of a product, {:.1} GiB",
        training.seconds,
        seconds * 1e3,
        times[0] * 1e3,
        times[times.len() - 1] * 1e3,
        rate / 1e12,
        100.0 * rate / ceilings.gemm,
        gib(held)
    ));
    let phases = phases(training, device, report)?;
    let batch = &training.batches[0];
    let samples: Vec<usize> = batch.packed.seq.lens().collect();
    let targets: Vec<usize> = batch.targets.iter().map(Vec::len).collect();
    Ok(json!({
        "stage": stage, "batch": { "samples": samples, "targets": targets }, "seconds_of_speech": training.seconds, "utterances": training.batches.iter().map(|b| b.targets.len()).sum::<usize>(),
        "positions": last.work.positions, "step_ms": seconds * 1e3, "step_ms_all": times.iter().map(|t| t * 1e3).collect::<Vec<_>>(),
        "audio_hours_per_gpu_hour": hours, "flop": last.work.flops, "flop_per_s": rate, "share_of_gemm": rate / ceilings.gemm,
        "peak_bytes": held, "grown_bytes": grown, "loss": last.sums.decoder(), "phases_ms": phases,
    }))
}

/// One step in pieces, each waited for.
fn phases(training: &mut Training, device: &Device, report: &mut Report) -> Result<Value, Error> {
    let mut times = Vec::new();
    let mut begun = Instant::now();
    let mut lap = |name: &'static str| -> Result<(), Error> {
        wait(device)?;
        times.push((name, begun.elapsed().as_secs_f64() * 1e3));
        begun = Instant::now();
        Ok(())
    };
    lap("")?;
    let tape = Tape::training(StepRng::new(0, 99));
    let (model, batch) = (&training.built.model, &training.batches[0]);
    let apart = Tape::inference();
    drop(model.encode(&apart, batch)?);
    lap("encoder and connector forward, alone")?;
    let losses = model.losses(&tape, batch, &training.layout)?;
    lap("forward")?;
    let one = Tensor::new(1f32, &Device::Cpu)?;
    training.buckets.zero_grad()?;
    let mut sink = training.buckets.sink(None);
    tape.backward(&[(&losses.decoder.loss, one)], &mut sink).and_then(|()| sink.finish())?;
    lap("backward")?;
    drop(losses);
    training.update()?;
    lap("norm, clipping and update")?;
    let shown: Vec<String> = times[1..].iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
    report.say(&format!("       in ms: {}", shown.join("; ")));
    Ok(times[1..].iter().map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect::<serde_json::Map<_, _>>().into())
}

/// The most memory in use so far.
fn peak(device: &Device) -> Result<u64, Error> {
    #[cfg(feature = "cuda")]
    return Ok(echat_kernels::cuda::memory(device)?.peak);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        Ok(0)
    }
}

fn forget_peak(device: &Device) -> Result<(), Error> {
    #[cfg(feature = "cuda")]
    echat_kernels::cuda::forget_peak(device)?;
    let _ = device;
    Ok(())
}
