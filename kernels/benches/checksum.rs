//! Checksums of a large weight. `cargo bench -p echat-kernels --bench checksum`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::checksum::checksums;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum 4096x11008");
    for dtype in [DType::F32, DType::BF16] {
        let x = Tensor::randn(0f32, 1.0, (4096, 11_008), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        group.throughput(Throughput::Bytes((x.elem_count() * dtype.size_in_bytes()) as u64));
        group.bench_function(format!("{dtype:?}"), |b| b.iter(|| checksums(&[&x]).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
