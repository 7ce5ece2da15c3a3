//! The packed mean of 16 utterances. `cargo bench -p echat-kernels --bench mean_pool`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::{SeqLens, mean_pool};

fn bench(c: &mut Criterion) {
    let seq = SeqLens::from_lens((0..16).map(|i| 100 + 10 * i));
    let x = Tensor::rand(-1f32, 1.0, (seq.total(), 768), &Device::Cpu).unwrap();
    let means = mean_pool::forward(&x, &seq).unwrap();
    let mut group = c.benchmark_group("mean_pool 16 utterances x 768");
    group.throughput(Throughput::Elements((seq.total() * 768) as u64));
    group.bench_function("forward", |b| b.iter(|| mean_pool::forward(&x, &seq).unwrap()));
    group.bench_function("backward", |b| b.iter(|| mean_pool::backward(&means, &seq).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
