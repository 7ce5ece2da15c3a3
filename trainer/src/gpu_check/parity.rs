//! The tiny model's whole step on the device against the CPU, and against itself.

use candle_core::Device;
use echat_kernels::tensor;
use serde_json::{Value, json};

use super::model::{Size, Task, Training};
use super::{Error, Report};
use crate::model::echat::Precision;

/// What a difference from the CPU may be: relative, in the 2-norm of a parameter's gradient. bf16 rounds every activation, in another order.
fn bound(precision: Precision) -> f64 {
    if precision == Precision::Bf16 { 8e-2 } else { 1e-3 }
}

/// Both stages in both precisions.
pub(super) fn run(device: &Device, report: &mut Report) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for stage in [1, 2] {
        for precision in [Precision::F32, Precision::Bf16] {
            rows.push(compare(device, stage, precision, report)?);
        }
    }
    Ok(Value::Array(rows))
}

fn compare(device: &Device, stage: u8, precision: Precision, report: &mut Report) -> Result<Value, Error> {
    let (micro_batch_seconds, micro_batches) = (1.5, 2);
    let task = Task { size: Size::Tiny, stage, precision, micro_batch_seconds, micro_batches, recompute: stage == 2 };
    let mut here = Training::new(&task, device)?;
    let mut there = super::on_host(|| Training::new(&task, &Device::Cpu))?;
    let want = super::on_host(|| there.differentiate(3).and_then(|(tally, _)| Ok(tally.read()?)))?;
    let (tally, _) = here.differentiate(3)?;
    let got = tally.read()?;
    let first = gradients(&here)?;
    let worst = worst(&here, &first, &gradients(&there)?);
    here.differentiate(3)?;
    let again = gradients(&here)?;
    let same = first.iter().flatten().map(|x| x.to_bits()).eq(again.iter().flatten().map(|x| x.to_bits()));
    let alpha = if stage == 2 { 0.1 } else { 0.0 };
    let loss = (got.total(alpha) - want.total(alpha)).abs() / want.total(alpha);
    let name = format!("tiny model, stage {stage}, {precision:?}");
    report.holds(&format!("{name}: loss as on the CPU (relative difference)"), loss, bound(precision) / 10.0);
    let (worst_of, error) = worst;
    report.holds(&format!("{name}: gradients as on the CPU (worst: {worst_of})"), error, bound(precision));
    report.is(&format!("{name}: the same bits when run again"), same);
    Ok(json!({
        "stage": stage, "precision": format!("{precision:?}"), "loss_difference": loss, "worst_gradient": worst_of, "gradient_difference": error,
        "bitwise_repeatable": same,
    }))
}

/// Each parameter's gradient.
fn gradients(training: &Training) -> Result<Vec<Vec<f32>>, Error> {
    let mut all = Vec::new();
    for bucket in training.buckets.iter() {
        let grad = tensor::to_host(&bucket.grad).map_err(crate::autograd::Error::from)?;
        all.extend(bucket.segments.iter().map(|segment| grad[segment.range.clone()].to_vec()));
    }
    Ok(all)
}

/// The parameter whose gradient differs most, and by how much; gradients that all but vanish are measured against the largest.
fn worst(training: &Training, got: &[Vec<f32>], want: &[Vec<f32>]) -> (String, f64) {
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let scale = want.iter().map(|x| norm(x)).fold(0.0, f64::max);
    let names = training.buckets.iter().flat_map(|bucket| &bucket.segments).map(|segment| segment.param.name());
    let difference = |got: &[f32], want: &[f32]| {
        let difference: Vec<f32> = got.iter().zip(want).map(|(g, w)| g - w).collect();
        match norm(&difference) {
            error if error.is_finite() => error / norm(want).max(1e-3 * scale),
            _ => f64::INFINITY,
        }
    };
    let errors = names.zip(got.iter().zip(want)).map(|(name, (got, want))| (name.to_owned(), difference(got, want)));
    errors.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
}
