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

/// What is trained, and how long.
pub(super) struct Plan {
    size: Size,
    /// Of speech, in a micro-batch.
    seconds: f64,
    steps: Steps,
}

/// What a GPU is asked for.
pub(super) const FULL: Plan = Plan { size: Size::Full, seconds: 240.0, steps: Steps { warm: 3, timed: 8 } };

pub(super) fn run(device: &Device, plan: &Plan, ceilings: &Ceilings, report: &mut Report) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for stage in [1, 2] {
        let (precision, micro_batches, recompute) = (Precision::Bf16, 1, false);
        let task =
            Task { size: plan.size, stage, precision, micro_batch_seconds: plan.seconds, micro_batches, recompute };
        forget_peak(device)?;
        let begun = Instant::now();
        let mut training = Training::new(&task, device)?;
        wait(device)?;
        let name = format!("stage {stage}, {}", if plan.size == Size::Full { "full size" } else { "tiny" });
        report.say(&format!("       {name}: built in {:.1} s", begun.elapsed().as_secs_f64()));
        let mut row = stage_row(&mut training, &name, plan.steps, device, ceilings, report)?;
        row["stage"] = stage.into();
        if stage == 1 {
            row["from_shards"] = stream::run(&mut training, &task, plan.steps, device, report)?;
        }
        rows.push(row);
    }
    Ok(Value::Array(rows))
}

fn stage_row(
    training: &mut Training,
    name: &str,
    steps: Steps,
    device: &Device,
    ceilings: &Ceilings,
    report: &mut Report,
) -> Result<Value, Error> {
    for step in 0..steps.warm {
        training.step(step)?;
    }
    let held = peak(device)?;
    let (mut times, mut last) = (Vec::new(), None);
    for step in steps.warm..steps.warm + steps.timed {
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
    report
        .is(&format!("{name}: loss and gradient are finite"), last.norm.is_finite() && last.sums.decoder().is_finite());
    report.is(&format!("{name}: memory does not grow from step to step"), grown == 0);
    report.say(&format!(
        "       {name}: {:.0} s of speech in {:.1} ms ({:.1} to {:.1}): {hours:.0} audio-h/GPU-h, {:.0} TFLOP/s, \
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
        "batch": { "samples": samples, "targets": targets }, "seconds_of_speech": training.seconds, "utterances": training.batches.iter().map(|b| b.targets.len()).sum::<usize>(),
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
    let mut seeds = vec![(&losses.decoder.loss, one.clone())];
    seeds.extend(losses.emotion.iter().map(|emotion| (&emotion.loss, one.clone())));
    tape.backward(&seeds, &mut sink).and_then(|()| sink.finish())?;
    lap("backward")?;
    drop(seeds);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What only a GPU is asked for in earnest runs here too, in small.
    #[test]
    fn both_stages_are_timed_and_the_first_from_shards_too() {
        let mut lines = Vec::new();
        let mut keep = |line: &str| lines.push(line.to_owned());
        let mut report = Report::new(&mut keep);
        let plan = Plan { size: Size::Tiny, seconds: 8.0, steps: Steps { warm: 1, timed: 3 } };
        let rows = run(&Device::Cpu, &plan, &Ceilings { copy: 1e9, gemm: 1e9 }, &mut report).unwrap();
        assert_eq!(report.failed(), [""; 0]);
        let rows = rows.as_array().unwrap();
        assert_eq!([&rows[0]["stage"], &rows[1]["stage"]], [1, 2]);
        for row in rows {
            assert_eq!(row["step_ms_all"].as_array().unwrap().len(), 3);
            for key in ["step_ms", "audio_hours_per_gpu_hour", "flop", "flop_per_s", "share_of_gemm", "loss"] {
                assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {row}");
            }
            assert_eq!(row["phases_ms"].as_object().unwrap().len(), 4);
        }
        let from_shards = &rows[0]["from_shards"];
        assert_eq!(from_shards["steps"], 3);
        assert!(from_shards["data_wait"].as_f64().is_some_and(|share| (0.0..1.0).contains(&share)), "{from_shards}");
        assert!(rows[1].get("from_shards").is_none());
    }
}
