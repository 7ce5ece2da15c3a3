//! How fast weights come from the page cache to the device, and that they arrive as they are.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use echat_kernels::{checksum, rng};
use half::bf16;
use half::vec::HalfBitsVecExt;
use rayon::prelude::*;
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::scratch::Scratch;
use super::{Error, Report, on_host, wait};
use crate::files::write_safetensors;
use crate::model::weights::Checkpoint;

/// Of weights in `--full`.
pub(super) const BYTES: usize = 4 << 30;
/// Bytes a second, at least: 14 GB of a 7B model in five seconds.
const LEAST: f64 = 3e9;
/// Elements of a tensor: no whole number of what is copied at a time.
const COUNT: usize = (32 << 20) + 1001;
/// Times it is read; the best counts.
const TIMES: usize = 3;

/// Writes `bytes` of bf16 weights to a file in the temporary directory, reads them once, and times reading them again.
pub(super) fn run(device: &Device, bytes: usize, report: &mut Report) -> Result<Value, Error> {
    let tensors: Vec<Noise> =
        (0..bytes.div_ceil(2 * COUNT)).map(|i| Noise::new(i, COUNT.min(bytes / 2 - i * COUNT))).collect();
    let scratch = Scratch::new("weights")?;
    let path = scratch.0.join("weights.safetensors");
    write(&path, &tensors).map_err(|e| Error::Setup(format!("cannot write {}: {e}", path.display())))?;
    let file = Checkpoint::open(&path)?;
    let names: Vec<String> = tensors.iter().map(Noise::name).collect();
    let wanted: Vec<_> = names.iter().map(|name| (name.as_str(), DType::BF16)).collect();
    let first = file.read(&wanted, device)?;
    let got = checksum::checksums(&first.iter().collect::<Vec<_>>())?;
    drop(first);
    let want = on_host(|| tensors.iter().map(Noise::checksum).collect::<Result<Vec<u64>, Error>>())?;
    report.is(&format!("weights: {} tensors read to the device are those of the file", want.len()), got == want);
    let mut seconds = f64::INFINITY;
    for _ in 0..TIMES {
        wait(device)?;
        let begun = Instant::now();
        let read = file.read(&wanted, device)?;
        wait(device)?;
        seconds = seconds.min(begun.elapsed().as_secs_f64());
        drop(read);
    }
    let rate = bytes as f64 / seconds;
    let gib = bytes as f64 / f64::from(1 << 30);
    let what = format!("weights: {:.1} GB/s from the page cache to the device, {gib:.1} GiB of bf16", rate / 1e9);
    report.is(&format!("{what} (at least {:.0})", LEAST / 1e9), rate >= LEAST);
    Ok(
        json!({ "bytes": bytes, "seconds": seconds, "bytes_per_s": rate, "least_bytes_per_s": LEAST, "intact": got == want }),
    )
}

fn write(path: &Path, tensors: &[Noise]) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write_safetensors(&mut out, tensors.iter().map(|t| (t.name(), t)), HashMap::new())?;
    out.into_inner()?;
    Ok(())
}

/// A tensor of bf16 of every bit pattern there is.
struct Noise {
    number: usize,
    shape: [usize; 1],
}

impl Noise {
    fn new(number: usize, count: usize) -> Self {
        Self { number, shape: [count] }
    }

    fn name(&self) -> String {
        format!("weights.{}", self.number)
    }

    fn bits(&self) -> Vec<u16> {
        let stream = rng::key(rng::site("weights"), self.number as u64);
        let mut bits = vec![0; self.shape[0]];
        bits.par_chunks_mut(4).with_min_len(1 << 14).enumerate().for_each(|(i, four)| {
            let drawn = rng::mix(stream.wrapping_add(i as u64));
            four.iter_mut().enumerate().for_each(|(k, bits)| *bits = (drawn >> (16 * k)) as u16);
        });
        bits
    }

    fn checksum(&self) -> Result<u64, Error> {
        let bits: Vec<bf16> = self.bits().reinterpret_into();
        let t = Tensor::from_vec(bits, self.shape[0], &Device::Cpu)?;
        Ok(checksum::checksums(&[&t])?[0])
    }
}

impl View for &Noise {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(bytemuck::cast_slice(&self.bits()).to_vec())
    }
    fn data_len(&self) -> usize {
        2 * self.shape[0]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(device: &Device) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |line: &str| lines.push(line.to_owned());
        let mut report = Report::new(&mut say);
        let found = run(device, 2 * COUNT + 20_006, &mut report).unwrap();
        assert_eq!(found["intact"], true);
        assert!(found["bytes_per_s"].as_f64().unwrap() > 0.0);
        lines
    }

    #[test]
    fn weights_arrive_and_are_timed_and_nothing_is_left_behind() {
        let lines = lines(&Device::Cpu);
        assert_eq!(lines[0], "ok     weights: 2 tensors read to the device are those of the file");
        assert!(lines[1].contains("GB/s from the page cache to the device"), "{lines:?}");
        assert!(!Scratch::place("weights").exists());
    }

    #[cfg(feature = "emulate")]
    #[test]
    fn weights_arrive_by_way_of_pinned_memory() {
        let lines = echat_kernels::cuda::emulated(|| lines(&Device::Cpu));
        assert!(lines[0].starts_with("ok     weights: 2 tensors"), "{lines:?}");
    }
}
