//! Row normalisation of an output head. `cargo bench -p echat-kernels --bench row_normalize`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::row_normalize;

fn bench(c: &mut Criterion) {
    let (v, d) = (8192, 512);
    let w = Tensor::rand(-1f32, 1.0, (v, d), &Device::Cpu).unwrap();
    let (_, norms) = row_normalize::forward(&w).unwrap();
    let mut group = c.benchmark_group("row_normalize 8192x512");
    group.throughput(Throughput::Elements((v * d) as u64));
    group.bench_function("forward", |b| b.iter(|| row_normalize::forward(&w).unwrap()));
    group.bench_function("backward", |b| b.iter(|| row_normalize::backward(&w, &w, &norms).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
