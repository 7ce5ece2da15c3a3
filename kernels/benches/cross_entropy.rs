//! Cross-entropy over a few classes. `cargo bench -p echat-kernels --bench cross_entropy`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use echat_kernels::cross_entropy;

fn bench(c: &mut Criterion) {
    let logits = Tensor::rand(-1f32, 1.0, (64, 5), &Device::Cpu).unwrap();
    let labels: Vec<u32> = (0..64).map(|i| i % 5).collect();
    c.bench_function("cross_entropy 64x5 forward+backward", |b| {
        b.iter(|| {
            let (_, p) = cross_entropy::forward(&logits, &labels).unwrap();
            cross_entropy::backward(&p, &labels).unwrap()
        });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
