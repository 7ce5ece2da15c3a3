//! The strided convolution: the layers of HuBERT's front end at a miniature's and at full width, four recordings.
//! `cargo bench -p echat-kernels --bench conv1d`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::{SeqLens, conv1d};

fn bench(c: &mut Criterion) {
    for (rows, c_in, c_out, kernel, stride) in
        [(32_000, 1, 64, 10, 5), (6_400, 64, 64, 3, 2), (1_600, 64, 64, 2, 2), (1_600, 512, 512, 3, 2)]
    {
        let seq = SeqLens::from_lens([rows, rows * 3 / 4, rows / 2, rows / 4]);
        let out = conv1d::out_seqlens(&seq, kernel, stride).total();
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let (x, w) = (random(&[seq.total(), c_in]), random(&[c_out, kernel * c_in]));
        let (bias, grad) = (random(&[c_out]), random(&[out, c_out]));
        let mut group = c.benchmark_group(format!("conv1d {c_in} to {c_out}, kernel {kernel}, stride {stride}"));
        group.throughput(Throughput::Elements((2 * out * c_out * kernel * c_in) as u64));
        group.bench_function("forward", |b| {
            b.iter(|| conv1d::forward(&x, &w, Some(&bias), &seq, kernel, stride).unwrap());
        });
        group.bench_function("backward_input", |b| {
            b.iter(|| conv1d::backward_input(&grad, &w, &seq, kernel, stride).unwrap());
        });
        group.bench_function("backward_weight", |b| {
            b.iter(|| conv1d::backward_weight(&grad, &x, &seq, kernel, stride).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
