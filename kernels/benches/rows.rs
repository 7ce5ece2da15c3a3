//! Token embedding, row moves and frame stacking. `cargo bench -p echat-kernels --bench rows`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::{SeqLens, embedding, rows, stack};

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn bench(c: &mut Criterion) {
    let (table, x) = (tensor(&[5000, 1024]), tensor(&[2000, 1024]));
    let ids: Vec<u32> = (0..2000).map(|i| i * 7919 % 5000).collect();
    let index: Vec<(u32, u32)> = (0..2000).map(|i| (i % 2, i)).collect();
    let masked: Vec<u32> = (0..2000).step_by(2).collect();
    let with = tensor(&[1024]);
    let seq = SeqLens::from_lens([501, 499, 1000]);
    let mut group = c.benchmark_group("rows 2000x1024");
    group.throughput(Throughput::Elements(x.elem_count() as u64));
    group.bench_function("embedding forward", |b| b.iter(|| embedding::forward(&table, &ids).unwrap()));
    group.bench_function("embedding backward", |b| b.iter(|| embedding::backward(&x, &ids, 5000).unwrap()));
    group.bench_function("gather", |b| b.iter(|| rows::gather(&[&table, &x], &index).unwrap()));
    group.bench_function("scatter", |b| b.iter(|| rows::scatter(&x, &index, 1, 2000).unwrap()));
    group.bench_function("replace", |b| b.iter(|| rows::replace(&x, &masked, &with).unwrap()));
    group.bench_function("replace backward", |b| b.iter(|| rows::replace_backward(&x, &masked).unwrap()));
    group.bench_function("stack forward", |b| b.iter(|| stack::forward(&x, &seq, 2).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
