//! The dense layer at a miniature model's shapes and a large one.
//! `cargo bench -p echat-kernels --bench linear`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::linear;

fn bench(c: &mut Criterion) {
    for (t, i, o) in [(800, 128, 128), (800, 128, 512), (3000, 512, 128), (1000, 1024, 4096)] {
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let (x, w, bias, grad) = (random(&[t, i]), random(&[o, i]), random(&[o]), random(&[t, o]));
        let mut group = c.benchmark_group(format!("linear [{t}, {i}] to {o}"));
        group.throughput(Throughput::Elements((2 * t * i * o) as u64));
        group.bench_function("forward", |b| b.iter(|| linear::forward(&x, &w, Some(&bias)).unwrap()));
        group.bench_function("backward_input", |b| b.iter(|| linear::backward_input(&grad, &w).unwrap()));
        group.bench_function("backward_weight", |b| b.iter(|| linear::backward_weight(&grad, &x).unwrap()));
        group.bench_function("backward_bias", |b| b.iter(|| linear::backward_bias(&grad).unwrap()));
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
