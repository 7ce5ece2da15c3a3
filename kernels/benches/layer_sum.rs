//! Both layer sums of a base-sized encoder, and one alone. `cargo bench -p echat-kernels --bench layer_sum`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::layer_sum::{self, Needs};

fn bench(c: &mut Criterion) {
    let (l, t, d) = (12, 1000, 768);
    let layers: Vec<Tensor> = (0..l).map(|_| Tensor::rand(-1f32, 1.0, (t, d), &Device::Cpu).unwrap()).collect();
    let weights = Tensor::rand(-1f32, 1.0, l, &Device::Cpu).unwrap();
    let grad = &layers[0];
    let mut group = c.benchmark_group("layer_sum 12 layers of 1000x768");
    group.throughput(Throughput::Bytes((4 * l * t * d) as u64));
    group.bench_function("one forward", |b| b.iter(|| layer_sum::forward(&layers, &weights, None).unwrap()));
    group.bench_function("both forward", |b| b.iter(|| layer_sum::forward(&layers, &weights, Some(&weights)).unwrap()));
    for (name, needs) in [
        ("both backward", Needs { layers: true, speech: true, emotion: true }),
        ("both backward, weights alone", Needs { layers: false, speech: true, emotion: true }),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| layer_sum::backward(Some(grad), Some(grad), &layers, &weights, Some(&weights), needs).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
