//! AdamW, SGD and the gradient norm on a flat bucket. `cargo bench -p echat-kernels --bench optimizers`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::step_control::Decision;
use echat_kernels::{adamw, grad_norm, sgd};

fn bench(c: &mut Criterion) {
    let count = 3_000_000;
    let random = || Tensor::randn(0f32, 1.0, count, &Device::Cpu).unwrap();
    let zeros = || Tensor::zeros(count, DType::F32, &Device::Cpu).unwrap();
    let (master, m, v, grad) = (random(), zeros(), zeros(), random());
    let compute = master.to_dtype(DType::BF16).unwrap();
    let mut group = c.benchmark_group("optimizers 3M parameters");
    group.throughput(Throughput::Elements(count as u64));
    let decision = Decision::Taken { step: 10, grad_scale: 0.5 };
    let hyper = adamw::Hyper { lr: 1e-4, beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01, decision };
    group.bench_function("adamw", |b| b.iter(|| adamw::step(&master, &m, &v, &grad, None, hyper).unwrap()));
    group.bench_function("adamw, bf16 copy", |b| {
        b.iter(|| adamw::step(&master, &m, &v, &grad, Some(&compute), hyper).unwrap())
    });
    let hyper = sgd::Hyper { lr: 1e-4, momentum: 0.9, weight_decay: 0.01, decision };
    group.bench_function("sgd", |b| b.iter(|| sgd::step(&master, Some(&m), &grad, None, hyper).unwrap()));
    group.bench_function("grad_norm", |b| b.iter(|| grad_norm::sum_of_squares(&[&grad]).unwrap()));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
