//! The fused output head and cross-entropy of a miniature and of a small LLM.
//! `cargo bench -p echat-kernels --bench linear_cross_entropy`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::linear_cross_entropy::{Needs, forward};

fn bench(c: &mut Criterion) {
    for (t, v, d) in [(400, 1000, 192), (200, 16_384, 256)] {
        let hidden = Tensor::randn(0f32, 1.0, (t, d), &Device::Cpu).unwrap();
        let weight = Tensor::randn(0f32, 0.05, (v, d), &Device::Cpu).unwrap();
        let rows: Vec<u32> = (0..t as u32).collect();
        let labels: Vec<u32> = rows.iter().map(|i| i * 7 % v as u32).collect();
        let mut group = c.benchmark_group(format!("linear_cross_entropy {t} rows, {v}x{d}"));
        group.throughput(Throughput::Elements((t * v * d) as u64));
        for (name, needs) in [
            ("loss alone", Needs { hidden: false, weight: false }),
            ("frozen head", Needs { hidden: true, weight: false }),
            ("trained head", Needs { hidden: true, weight: true }),
        ] {
            group.bench_function(name, |b| b.iter(|| forward(&hidden, &weight, &rows, &labels, needs).unwrap()));
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
