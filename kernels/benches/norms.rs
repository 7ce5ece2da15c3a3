//! RMSNorm, LayerNorm and channel norm at the widths of HuBERT-large and of its first convolution.
//! `cargo bench -p echat-kernels --bench norms`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::{SeqLens, channel_norm, layer_norm, rms_norm};

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn bench(c: &mut Criterion) {
    let (x, grad, w) = (tensor(&[2000, 1024]), tensor(&[2000, 1024]), tensor(&[1024]));
    let mut group = c.benchmark_group("norms 2000x1024");
    group.throughput(Throughput::Elements(x.elem_count() as u64));
    let (_, rstd) = rms_norm::forward(&x, &w, 1e-6).unwrap();
    group.bench_function("rms_norm forward", |b| b.iter(|| rms_norm::forward(&x, &w, 1e-6).unwrap()));
    group.bench_function("rms_norm backward", |b| b.iter(|| rms_norm::backward(&grad, &x, &w, &rstd, true).unwrap()));
    let (_, stats) = layer_norm::forward(&x, &w, &w, 1e-5).unwrap();
    group.bench_function("layer_norm forward", |b| b.iter(|| layer_norm::forward(&x, &w, &w, 1e-5).unwrap()));
    group.bench_function("layer_norm backward", |b| {
        b.iter(|| layer_norm::backward(&grad, &x, &w, &stats, true).unwrap())
    });
    group.finish();

    let seq = SeqLens::from_lens([3000, 1000]);
    let (x, grad, w) = (tensor(&[4000, 512]), tensor(&[4000, 512]), tensor(&[512]));
    let mut group = c.benchmark_group("channel_norm 4000x512");
    group.throughput(Throughput::Elements(x.elem_count() as u64));
    let (_, stats) = channel_norm::forward(&x, &w, &w, &seq, 1e-5).unwrap();
    group.bench_function("forward", |b| b.iter(|| channel_norm::forward(&x, &w, &w, &seq, 1e-5).unwrap()));
    group.bench_function("backward", |b| b.iter(|| channel_norm::backward(&grad, &x, &w, &stats, &seq, true).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
