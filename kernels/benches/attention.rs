//! Packed attention at the shapes of a miniature and of a base-sized encoder, and of decoding with a cache.
//! `RAYON_NUM_THREADS=1 cargo bench -p echat-kernels --bench attention`
//!
//! Measured in the CPU time of one thread (Linux), so that what else the machine does counts for little; with more than
//! one thread it means nothing. `tests/peers/attention.py` puts PyTorch beside it.
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::SeqLens;
use echat_kernels::attention::{Attention, Dropout, backward, forward};

/// CPU time of the calling thread, in nanoseconds, to within a tick of the scheduler: a few milliseconds.
struct CpuTime(WallTime);

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    }
    fn end(&self, start: u64) -> u64 {
        self.start() - start
    }
    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }
    fn zero(&self) -> u64 {
        0
    }
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

fn tensor(rows: usize, heads: usize, dh: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, heads, dh), &Device::Cpu).unwrap()
}

fn bench(c: &mut Criterion<CpuTime>) {
    let short: Vec<usize> = (0..16).map(|i| 30 + 50 * i / 15).collect();
    let long: Vec<usize> = (0..4).map(|i| 500 + 1000 * i / 3).collect();
    for (name, lens, h, dh, causal, p) in [
        ("16 of 30-80, 4x32", &short, 4, 32, false, 0.0),
        ("16 of 30-80, 4x32, causal", &short, 4, 32, true, 0.0),
        ("16 of 30-80, 4x32, dropout", &short, 4, 32, false, 0.1),
        ("4 of 500-1500, 4x64", &long, 4, 64, false, 0.0),
        ("4 of 500-1500, 4x64, causal", &long, 4, 64, true, 0.0),
    ] {
        let seq = SeqLens::from_lens(lens.iter().copied());
        let streams: Vec<u64> = (0..lens.len() as u64).collect();
        let dropout = (p > 0.0).then_some(Dropout { p, streams: &streams });
        let args = Attention { q_seq: &seq, k_seq: &seq, causal, scale: 1.0 / (dh as f32).sqrt(), dropout };
        let [q, k, v, grad] = [0; 4].map(|_| tensor(seq.total(), h, dh));
        let mut group = c.benchmark_group(format!("attention {name}"));
        let products: usize = lens.iter().map(|l| l * l * h * dh).sum();
        group.throughput(Throughput::Elements(products as u64));
        group.bench_function("forward", |b| b.iter(|| forward(&q, &k, &v, &args).unwrap()));
        let (out, lse) = forward(&q, &k, &v, &args).unwrap();
        group.bench_function("backward", |b| b.iter(|| backward(&grad, &q, &k, &v, &out, &lse, &args).unwrap()));
        group.finish();
    }
    let (one, cache) = (SeqLens::from_lens([1]), SeqLens::from_lens([2048]));
    let args = Attention { q_seq: &one, k_seq: &cache, causal: true, scale: 0.125, dropout: None };
    let (q, k) = (tensor(1, 16, 64), tensor(2048, 16, 64));
    c.bench_function("attention 1 query, 2048 keys, 16x64, forward", |b| {
        b.iter(|| forward(&q, &k, &k, &args).unwrap())
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime(WallTime));
    targets = bench
}
criterion_main!(benches);
