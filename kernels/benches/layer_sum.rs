//! The layer sum of a base-sized encoder, with the layers' means. `cargo bench -p echat-kernels --bench layer_sum`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::SeqLens;
use echat_kernels::layer_sum::{self, Needs};

fn bench(c: &mut Criterion) {
    let (l, t, d) = (12, 1000, 768);
    let layers: Vec<Tensor> = (0..l).map(|_| Tensor::rand(-1f32, 1.0, (t, d), &Device::Cpu).unwrap()).collect();
    let weights = Tensor::rand(-1f32, 1.0, l, &Device::Cpu).unwrap();
    let seq = SeqLens::from_lens([t / 4; 4]);
    let (grad, grad_means) = (&layers[0], Tensor::rand(-1f32, 1.0, (l, 4, d), &Device::Cpu).unwrap());
    let mut group = c.benchmark_group("layer_sum 12 layers of 1000x768");
    group.throughput(Throughput::Bytes((4 * l * t * d) as u64));
    group.bench_function("sum", |b| b.iter(|| layer_sum::forward(&layers, &weights, None).unwrap()));
    group.bench_function("sum and means", |b| b.iter(|| layer_sum::forward(&layers, &weights, Some(&seq)).unwrap()));
    for (name, needs) in [
        ("backward", Needs { layers: true, weights: true }),
        ("backward, weights alone", Needs { layers: false, weights: true }),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                layer_sum::backward(Some(grad), Some(&grad_means), &layers, &weights, Some(&seq), needs).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
