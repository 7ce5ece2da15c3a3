//! Kernels at the large model's sizes, as shares of what copies and matrix products reach in the same run.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use echat_kernels::attention::{self, Attention, Path};
use echat_kernels::step_control::Decision;
use echat_kernels::{
    SeqLens, activation, adamw, layer_norm, layer_sum, linear, linear_cross_entropy, rms_norm, rope, swiglu,
};
use serde_json::{Value, json};

use super::{Error, Report, wait};

/// What the device reaches at best.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceilings {
    /// Bytes a second of a copy, read and written.
    pub(super) copy: f64,
    /// Operations a second of a large bf16 matrix product.
    pub(super) gemm: f64,
}

/// Frames or positions of a packed batch.
const ROWS: usize = 8192;

struct Bench<'a, 'b> {
    device: &'a Device,
    ceilings: Ceilings,
    /// Batches, the vocabulary and the optimizer's parameters are smaller by this factor: 1 but in tests.
    divisor: usize,
    rows: Vec<Value>,
    report: &'a mut Report<'b>,
}

pub(super) fn run(device: &Device, ceilings: &Ceilings, report: &mut Report) -> Result<Value, Error> {
    report.say(&format!("copy: {:.0} GB/s; bf16 product: {:.0} TFLOP/s", ceilings.copy / 1e9, ceilings.gemm / 1e12));
    let rows = all(Bench { device, ceilings: *ceilings, divisor: 1, rows: Vec::new(), report })?;
    Ok(json!({ "copy_bytes_per_s": ceilings.copy, "gemm_flop_per_s": ceilings.gemm, "kernels": rows }))
}

fn all(mut bench: Bench) -> Result<Vec<Value>, Error> {
    bench.sums()?;
    bench.norms()?;
    bench.fused_norms()?;
    bench.pointwise()?;
    bench.attention(None)?;
    bench.head()?;
    bench.optimizer()?;
    Ok(bench.rows)
}

/// Attention by what `device` has and does not take.
pub(super) fn other_paths(device: &Device, ceilings: &Ceilings, report: &mut Report) -> Result<Vec<Value>, Error> {
    let mut bench = Bench { device, ceilings: *ceilings, divisor: 1, rows: Vec::new(), report };
    for &path in attention::paths(device).iter().skip(1) {
        attention::with_path(path, || bench.attention(Some(path)))?;
    }
    Ok(bench.rows)
}

/// The least of five means of `f`, in seconds, each long enough to be timed from the host.
pub(super) fn seconds<R>(device: &Device, mut f: impl FnMut() -> Result<R, Error>) -> Result<f64, Error> {
    f()?;
    wait(device)?;
    let begun = Instant::now();
    f()?;
    wait(device)?;
    let times = (0.03 / begun.elapsed().as_secs_f64()).ceil().clamp(1.0, 200.0) as usize;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begun = Instant::now();
        (0..times).try_for_each(|_| f().map(drop))?;
        wait(device)?;
        best = best.min(begun.elapsed().as_secs_f64() / times as f64);
    }
    Ok(best)
}

fn random(shape: &[usize], device: &Device) -> Result<Tensor, Error> {
    Ok(Tensor::rand(-1f32, 1f32, shape, device)?.to_dtype(DType::BF16)?)
}

/// What `device` reaches now.
pub(super) fn ceilings(device: &Device) -> Result<Ceilings, Error> {
    let flat = random(&[1 << 29], device)?;
    let copied = seconds(device, || Ok(flat.copy()?))?;
    let n = 8192;
    let (x, w) = (random(&[n, n], device)?, random(&[n, n], device)?);
    let multiplied = seconds(device, || Ok(linear::forward(&x, &w, None)?))?;
    Ok(Ceilings { copy: 2.0 * (1u64 << 30) as f64 / copied, gemm: 2.0 * (n as f64).powi(3) / multiplied })
}

impl Bench<'_, '_> {
    fn random(&self, shape: &[usize]) -> Result<Tensor, Error> {
        random(shape, self.device)
    }

    /// Times `f`, which moves so many bytes.
    fn bytes<R>(&mut self, name: &str, bytes: f64, f: impl FnMut() -> Result<R, Error>) -> Result<(), Error> {
        let seconds = seconds(self.device, f)?;
        let (rate, share) = (bytes / seconds, bytes / seconds / self.ceilings.copy);
        self.report.say(&format!(
            "       {name}: {:.3} ms, {:.0} GB/s, {:.0} % of a copy",
            seconds * 1e3,
            rate / 1e9,
            share * 100.0
        ));
        self.rows.push(json!({ "name": name, "ms": seconds * 1e3, "bytes_per_s": rate, "share_of_copy": share }));
        Ok(())
    }

    /// Times `f`, which does so many operations.
    fn flops<R>(&mut self, name: &str, flops: f64, f: impl FnMut() -> Result<R, Error>) -> Result<(), Error> {
        let seconds = seconds(self.device, f)?;
        let (rate, share) = (flops / seconds, flops / seconds / self.ceilings.gemm);
        self.report.say(&format!(
            "       {name}: {:.3} ms, {:.0} TFLOP/s, {:.0} % of a product",
            seconds * 1e3,
            rate / 1e12,
            share * 100.0
        ));
        self.rows.push(json!({ "name": name, "ms": seconds * 1e3, "flop_per_s": rate, "share_of_gemm": share }));
        Ok(())
    }

    /// The dual layer sum over 24 layers of 1024.
    fn sums(&mut self) -> Result<(), Error> {
        let rows = ROWS / self.divisor;
        let (count, d, seq) = (24, 1024, SeqLens::from_lens(vec![128; rows / 128]));
        let layers = (0..count).map(|_| self.random(&[rows, d])).collect::<Result<Vec<_>, _>>()?;
        let raw = Tensor::zeros(count, DType::F32, self.device)?;
        let one = (2 * rows * d) as f64;
        let name = format!("layer_sum forward, {count} layers [{rows}, {d}], with means");
        self.bytes(&name, one * (count + 1) as f64, || Ok(layer_sum::forward(&layers, &raw, Some(&seq))?))?;
        let grad = self.random(&[rows, d])?;
        let needs = layer_sum::Needs { layers: true, weights: true };
        let name = format!("layer_sum backward, {count} layers [{rows}, {d}]");
        self.bytes(&name, one * (2 * count + 1) as f64, || {
            Ok(layer_sum::backward(Some(&grad), None, &layers, &raw, Some(&seq), needs)?)
        })
    }

    fn norms(&mut self) -> Result<(), Error> {
        let rows = ROWS / self.divisor;
        for d in [1024, 4096] {
            let (x, g, w) = (self.random(&[rows, d])?, self.random(&[rows, d])?, self.random(&[d])?);
            let one = (2 * rows * d) as f64;
            self.bytes(&format!("rms_norm forward [{rows}, {d}]"), 2.0 * one, || Ok(rms_norm::forward(&x, &w, 1e-6)?))?;
            let (_, rstd) = rms_norm::forward(&x, &w, 1e-6)?;
            self.bytes(&format!("rms_norm backward, frozen [{rows}, {d}]"), 3.0 * one, || {
                Ok(rms_norm::backward(&g, &x, &w, &rstd, false)?)
            })?;
            self.bytes(&format!("layer_norm forward [{rows}, {d}]"), 2.0 * one, || {
                Ok(layer_norm::forward(&x, &w, &w, 1e-5)?)
            })?;
            let (_, stats) = layer_norm::forward(&x, &w, &w, 1e-5)?;
            self.bytes(&format!("layer_norm backward [{rows}, {d}]"), 3.0 * one, || {
                Ok(layer_norm::backward(&g, &x, &w, &stats, true)?)
            })?;
        }
        Ok(())
    }

    /// Norms with what stands before or behind them: in the decoder, in the encoder, and behind its convolutions.
    fn fused_norms(&mut self) -> Result<(), Error> {
        let rows = ROWS / self.divisor;
        let (rms, layer, conv) = ([rows, 4096], [rows, 1024], [8 * rows, 512]);
        let bytes = |[rows, d]: [usize; 2]| (2 * rows * d) as f64;
        let (x, g, w) = (self.random(&rms)?, self.random(&rms)?, self.random(&rms[1..])?);
        self.bytes(&format!("residual and rms_norm forward {rms:?}"), 4.0 * bytes(rms), || {
            Ok(rms_norm::forward_added(&x, &g, &w, 1e-6)?)
        })?;
        let (_, rstd) = rms_norm::forward(&x, &w, 1e-6)?;
        self.bytes(&format!("residual and rms_norm backward, frozen {rms:?}"), 4.0 * bytes(rms), || {
            Ok(rms_norm::backward_added(&g, Some(&g), &x, &w, &rstd, false)?)
        })?;
        let (x, g, w) = (self.random(&layer)?, self.random(&layer)?, self.random(&layer[1..])?);
        self.bytes(&format!("residual and layer_norm forward {layer:?}"), 4.0 * bytes(layer), || {
            Ok(layer_norm::forward_added(&x, &g, &w, &w, 1e-5)?)
        })?;
        let (_, stats) = layer_norm::forward(&x, &w, &w, 1e-5)?;
        self.bytes(&format!("residual and layer_norm backward {layer:?}"), 4.0 * bytes(layer), || {
            Ok(layer_norm::backward_added(&g, Some(&g), &x, &w, &stats, true)?)
        })?;
        let (x, g, w) = (self.random(&conv)?, self.random(&conv)?, self.random(&conv[1..])?);
        self.bytes(&format!("layer_norm and gelu forward {conv:?}"), 2.0 * bytes(conv), || {
            Ok(layer_norm::forward_gelu(&x, &w, &w, 1e-5)?)
        })?;
        let (_, stats) = layer_norm::forward_gelu(&x, &w, &w, 1e-5)?;
        self.bytes(&format!("layer_norm and gelu backward {conv:?}"), 3.0 * bytes(conv), || {
            Ok(layer_norm::backward_gelu(&g, &x, &w, &w, &stats, true)?)
        })
    }

    fn pointwise(&mut self) -> Result<(), Error> {
        let (rows, d) = (ROWS / self.divisor, 11_008);
        let (gate, up, g) = (self.random(&[rows, d])?, self.random(&[rows, d])?, self.random(&[rows, d])?);
        let one = (2 * rows * d) as f64;
        self.bytes(&format!("swiglu forward [{rows}, {d}]"), 3.0 * one, || Ok(swiglu::forward(&gate, &up)?))?;
        self.bytes(&format!("swiglu backward [{rows}, {d}]"), 5.0 * one, || Ok(swiglu::backward(&g, &gate, &up)?))?;
        let (x, b) = (self.random(&[rows, 4096])?, self.random(&[4096])?);
        let one = (2 * rows * 4096) as f64;
        self.bytes(&format!("bias and gelu forward [{rows}, 4096]"), 2.0 * one, || {
            Ok(activation::forward(&x, Some(&b), activation::Activation::Gelu)?)
        })?;
        let inv_freq: Vec<f32> = (0..64).map(|j| 10000f32.powf(-2.0 * j as f32 / 128.0)).collect();
        let table = rope::Table::new(&inv_freq, 4096)?;
        let positions: Vec<u32> = (0..rows as u32).map(|i| i % 512).collect();
        let x = x.reshape((rows, 32, 128))?;
        self.bytes(&format!("rope [{rows}, 32, 128]"), 2.0 * one, || Ok(rope::forward(&x, &positions, &table)?))
    }

    /// Forward and backward of both models' heads, 16,384 positions in all: by the path that this GPU takes, and by others that it has.
    fn attention(&mut self, path: Option<Path>) -> Result<(), Error> {
        for (h, dh, causal) in [(16, 64, false), (32, 128, true)] {
            let rows = 2 * ROWS / self.divisor;
            for len in [128, 512, 1024, 2048].into_iter().filter(|len| *len <= rows) {
                let seq = SeqLens::from_lens(vec![len; rows / len]);
                let shape = [rows, h, dh];
                let (q, k) = (self.random(&shape)?, self.random(&shape)?);
                let (v, g) = (self.random(&shape)?, self.random(&shape)?);
                let scale = 1.0 / (dh as f32).sqrt();
                let args = Attention { q_seq: &seq, k_seq: &seq, causal, scale, dropout: None };
                let products = 4.0 * (rows * len * h * dh) as f64 * if causal { 0.5 } else { 1.0 };
                let what = format!("{h} heads of {dh}, {}, length {len}", if causal { "causal" } else { "full" });
                let what = path.map_or(what.clone(), |path| format!("{what}, by {path}"));
                self.flops(&format!("attention forward, {what}"), products, || {
                    Ok(attention::forward(&q, &k, &v, &args)?)
                })?;
                #[cfg(feature = "flash-attn")]
                if path.is_none() {
                    self.flops(&format!("attention forward by candle-flash-attn, {what}"), products, || {
                        Ok(attention::infer(&q, &k, &v, &args)?)
                    })?;
                }
                let (out, lse) = attention::forward(&q, &k, &v, &args)?;
                self.flops(&format!("attention backward, {what}"), 2.5 * products, || {
                    Ok(attention::backward(&g, &q, &k, &v, &out, &lse, &args)?)
                })?;
            }
        }
        Ok(())
    }

    /// Baichuan2's output head over 2,048 labelled rows, frozen.
    fn head(&mut self) -> Result<(), Error> {
        let (rows, v, d) = (2048 / self.divisor, 125_696 / self.divisor, 4096);
        let (x, w) = (self.random(&[rows, d])?, self.random(&[v, d])?);
        let labels: Vec<u32> = (0..rows as u32).collect();
        let needs = linear_cross_entropy::Needs { hidden: true, weight: false };
        let flops = 4.0 * (rows * v * d) as f64;
        self.flops(&format!("linear and cross-entropy, {rows} rows, [{v}, {d}] frozen"), flops, || {
            Ok(linear_cross_entropy::forward(&x, &w, &labels, &labels, needs)?)
        })
    }

    fn optimizer(&mut self) -> Result<(), Error> {
        let n = 100_000_000 / self.divisor;
        let flat = || Ok::<_, Error>(Tensor::zeros(n, DType::F32, self.device)?);
        let (p, m, v, g) = (flat()?, flat()?, flat()?, flat()?);
        let compute = p.to_dtype(DType::BF16)?;
        let decision = Decision::Taken { step: 1, grad_scale: 1.0 };
        let hyper = adamw::Hyper { lr: 1e-4, beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01, decision };
        self.bytes(&format!("adamw, {}M parameters", n / 1_000_000), 30.0 * n as f64, || {
            adamw::step(&p, &m, &v, &g, Some(&compute), hyper)?;
            Ok(())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What only a GPU is asked for in earnest runs here too, in small.
    #[test]
    fn every_op_is_timed() {
        let (device, mut lines) = (Device::Cpu, Vec::new());
        let ceilings = Ceilings { copy: 1e9, gemm: 1e9 };
        let mut keep = |line: &str| lines.push(line.to_owned());
        let mut report = Report::new(&mut keep);
        let rows =
            all(Bench { device: &device, ceilings, divisor: 64, rows: Vec::new(), report: &mut report }).unwrap();
        assert_eq!(rows.len(), 2 + 8 + 6 + 4 + 4 + 1 + 1 + 2 * usize::from(cfg!(feature = "flash-attn")));
        for row in &rows {
            assert!(row["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
        }
        assert_eq!(lines.len(), rows.len());
    }
}
