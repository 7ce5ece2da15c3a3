//! Whether NCCL works on a GPU.

use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use echat_kernels::readback::Readback;

use super::super::{Collective, Error, Result, Solo, World};
use super::Nccl;
use super::link::Link;

/// Numbers in the tensors that are summed: around what NCCL cuts them by, and enough to take a while.
const LENGTHS: [usize; 5] = [1, 1_023, 65_537, 1_000_003, 1 << 24];
/// Kernels before a sum, so that one that does not wait for them comes too early.
const BEFORE: usize = 20;

/// What [`check`] has seen.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The library's version.
    pub version: String,
    /// How long the GPU waited for the sums.
    pub waited: Duration,
}

/// Sums on `device` by a communicator that has it alone: several sums at a time, each after the kernels before it and before those
/// that follow.
///
/// # Errors
/// No NCCL, or one that does not work, or sums that are wrong.
pub fn check(device: &Device) -> Result<Checked> {
    let mut nccl = Nccl::new(Box::new(Solo::new(World::single("here"))), None);
    nccl.attach(device)?;
    let version = nccl.link.as_ref().map(Link::version).unwrap_or_default();
    in_place(&mut nccl, device)?;
    in_order(&mut nccl, device)?;
    let waited = nccl.waited();
    nccl.finish()?;
    Ok(Checked { version, waited })
}

fn candle<T>(result: candle_core::Result<T>) -> Result<T> {
    result.map_err(|e| Error::Kernel(e.into()))
}

fn wrong(what: String) -> Error {
    Error::Nccl { call: "all-reduce", message: format!("a sum of one rank is wrong: {what}"), missing: String::new() }
}

/// `value` in all of `n` places, by many kernels.
fn slowly(value: usize, n: usize, device: &Device) -> Result<Tensor> {
    let mut tensor = candle(Tensor::zeros(n, DType::F32, device))?;
    for _ in 0..BEFORE {
        tensor = candle(tensor.affine(1.0, value as f64 / BEFORE as f64))?;
    }
    Ok(tensor)
}

/// Errors unless all of `sum` is about `value`.
fn expect(value: f64, sum: &Tensor) -> Result<()> {
    let values: Vec<f32> = candle(sum.to_vec1())?;
    match values.iter().position(|v| (f64::from(*v) - value).abs().partial_cmp(&1e-3) != Some(std::cmp::Ordering::Less))
    {
        None => Ok(()),
        Some(i) => Err(wrong(format!("number {i} of {} is {}, not {value}", values.len(), values[i]))),
    }
}

/// Waits for `device`, as training does.
fn reached(nccl: &mut Nccl, device: &Device) -> Result<()> {
    let last = candle(Tensor::zeros(1, DType::F64, device))?;
    nccl.await_numbers(&Readback::start(&[&last])?)
}

/// As gradients are summed: the sum of one rank is what was there.
fn in_place(nccl: &mut Nccl, device: &Device) -> Result<()> {
    let mut pending = Vec::new();
    for (i, n) in LENGTHS.into_iter().enumerate() {
        let tensor = slowly(i + 1, n, device)?;
        pending.push((nccl.start_sum(&tensor)?, tensor));
    }
    let mut after = Vec::new();
    for (sum, tensor) in pending {
        nccl.finish_sum(sum, &tensor)?;
        after.push(candle(tensor.affine(2.0, 0.0))?);
    }
    reached(nccl, device)?;
    after.iter().enumerate().try_for_each(|(i, doubled)| expect(2.0 * (i + 1) as f64, doubled))
}

/// Into another place, for one rank's sum in place is nothing to do: what comes too early or too late shows.
fn in_order(nccl: &mut Nccl, device: &Device) -> Result<()> {
    let mut pending = Vec::new();
    for (i, n) in LENGTHS.into_iter().enumerate() {
        let (from, to) = (slowly(i + 1, n, device)?, candle(Tensor::zeros(n, DType::F32, device))?);
        pending.push((nccl.start_into(&from, &to)?, to));
    }
    let mut after = Vec::new();
    for (sum, to) in pending {
        nccl.finish_sum(sum, &to)?;
        after.push(candle(to.affine(2.0, 0.0))?);
    }
    reached(nccl, device)?;
    after.iter().enumerate().try_for_each(|(i, doubled)| expect(2.0 * (i + 1) as f64, doubled))
}
