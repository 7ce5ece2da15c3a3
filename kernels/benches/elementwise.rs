//! Activations, SwiGLU, rotary embedding, dropout and wave normalisation.
//! `cargo bench -p echat-kernels --bench elementwise`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::activation::{self, Activation};
use echat_kernels::{SeqLens, dropout, rope, swiglu, wave_norm};

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn bench(c: &mut Criterion) {
    let (x, grad, bias) = (tensor(&[2000, 1024]), tensor(&[2000, 1024]), tensor(&[1024]));
    let mut group = c.benchmark_group("elementwise 2000x1024");
    group.throughput(Throughput::Elements(x.elem_count() as u64));
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu] {
        group.bench_function(format!("{kind:?} forward"), |b| {
            b.iter(|| activation::forward(&x, Some(&bias), kind).unwrap())
        });
        group.bench_function(format!("{kind:?} backward"), |b| {
            b.iter(|| activation::backward(&grad, &x, Some(&bias), kind).unwrap())
        });
    }
    group.bench_function("column_sum", |b| b.iter(|| activation::column_sum(&x).unwrap()));
    group.bench_function("swiglu forward", |b| b.iter(|| swiglu::forward(&x, &grad).unwrap()));
    group.bench_function("swiglu backward", |b| b.iter(|| swiglu::backward(&grad, &x, &grad).unwrap()));
    let frequencies: Vec<f32> = (0..32).map(|j| 10000f32.powf(-j as f32 / 32.0)).collect();
    let table = rope::Table::new(&frequencies, 2000).unwrap();
    let positions: Vec<u32> = (0..2000).collect();
    let heads = x.reshape((2000, 16, 64)).unwrap();
    group.bench_function("rope forward", |b| b.iter(|| rope::forward(&heads, &positions, &table).unwrap()));
    let seq = SeqLens::from_lens([500; 4]);
    let streams = [1, 2, 3, 4];
    group.bench_function("dropout", |b| b.iter(|| dropout::apply(&x, 0.1, &seq, &streams).unwrap()));
    group.bench_function("add_dropout", |b| b.iter(|| dropout::add_dropout(&grad, &x, 0.1, &seq, &streams).unwrap()));
    group.finish();

    let samples: Vec<i16> = (0..320_000i64).map(|i| (i * 7919 % 30_000 - 15_000) as i16).collect();
    let mut out = vec![0.0; samples.len()];
    c.bench_function("wave_norm 20 s", |b| b.iter(|| wave_norm::forward(&samples, &mut out, true).unwrap()));
}

criterion_group!(benches, bench);
criterion_main!(benches);
