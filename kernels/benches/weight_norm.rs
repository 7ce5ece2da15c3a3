//! Weight normalisation of the positional convolution's weight, a miniature's and HuBERT-large's.
//! `cargo bench -p echat-kernels --bench weight_norm`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::weight_norm;

fn bench(c: &mut Criterion) {
    for shape in [[128, 8, 128], [1024, 64, 128]] {
        let random = |shape: [usize; 3]| Tensor::randn(0f32, 1.0, &shape, &Device::Cpu).unwrap();
        let (v, grad, g) = (random(shape), random(shape), random([1, 1, shape[2]]));
        let mut group = c.benchmark_group(format!("weight_norm {shape:?}"));
        group.throughput(Throughput::Elements(shape.iter().product::<usize>() as u64));
        group.bench_function("forward", |b| b.iter(|| weight_norm::forward(&v, &g).unwrap()));
        group.bench_function("backward", |b| b.iter(|| weight_norm::backward(&grad, &v, &g).unwrap()));
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
