//! The positional convolution, kernel 128 in 16 groups, at two miniature widths and HuBERT-large's; four recordings.
//! `cargo bench -p echat-kernels --bench pos_conv`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::{SeqLens, pos_conv};

fn bench(c: &mut Criterion) {
    for d in [64, 128, 1024] {
        let seq = SeqLens::from_lens([200, 150, 250, 200]);
        let (t, groups, kernel) = (seq.total(), 16, 128);
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let (x, grad, w, bias) = (random(&[t, d]), random(&[t, d]), random(&[d, d / groups, kernel]), random(&[d]));
        let mut group = c.benchmark_group(format!("pos_conv [{t}, {d}]"));
        group.sample_size(20).throughput(Throughput::Elements((2 * t * d * d / groups * kernel) as u64));
        group.bench_function("forward", |b| b.iter(|| pos_conv::forward(&x, &w, &bias, &seq, groups).unwrap()));
        group.bench_function("backward_input", |b| {
            b.iter(|| pos_conv::backward_input(&grad, &w, &seq, groups).unwrap());
        });
        group.bench_function("backward_weight", |b| {
            b.iter(|| pos_conv::backward_weight(&grad, &x, &seq, groups, kernel).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
