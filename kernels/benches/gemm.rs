//! The matrix product against candle's (one call, its own threads) and the gemm crate's (one serial call for each piece
//! of rows), at a miniature model's shapes and a large one. Threads: `RAYON_NUM_THREADS`. `tests/peers/gemm.py` sets the
//! figures beside PyTorch's. `cargo bench -p echat-kernels --bench gemm`
#![allow(clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echat_kernels::gemm::{View, gemm};
use rayon::prelude::*;

/// Rows, columns, depth; what it is; whether A and B lie transposed in memory.
const SHAPES: [(usize, usize, usize, &str, bool, bool); 11] = [
    (800, 128, 128, "linear forward", false, true),
    (800, 512, 128, "linear forward", false, true),
    (800, 128, 512, "linear forward", false, true),
    (3000, 512, 128, "linear forward", false, true),
    (800, 128, 512, "linear input gradient", false, false),
    (512, 128, 800, "linear weight gradient", true, false),
    (128, 512, 3000, "linear weight gradient", true, false),
    (10000, 64, 192, "conv forward", false, true),
    (1500, 64, 10, "first conv forward", false, true),
    (64, 192, 10000, "conv weight gradient", true, false),
    (2048, 1024, 1024, "large linear forward", false, true),
];

fn view(data: &[f32], rows: usize, columns: usize, transposed: bool) -> View<'_> {
    if transposed { View::rows(data, rows).t() } else { View::rows(data, columns) }
}

/// The gemm crate, one serial call for each piece of rows.
#[allow(unsafe_code)]
fn by_crate(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32]) {
    let rows = m.div_ceil(8).max(48);
    c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
        let a_rows = &a.data[i * rows * a.row..];
        let count = c.len() / n;
        assert!((count - 1) * a.row + (k - 1) * a.col < a_rows.len());
        assert!((k - 1) * b.row + (n - 1) * b.col < b.data.len());
        // SAFETY: every element named by the sizes and strides lies within its slice, as asserted; c is not shared.
        unsafe {
            let (n_, one) = (n as isize, 1);
            let (a, a_col, a_row) = (a_rows.as_ptr(), a.col as isize, a.row as isize);
            let (b, b_col, b_row) = (b.data.as_ptr(), b.col as isize, b.row as isize);
            let serial = ::gemm::Parallelism::None;
            ::gemm::gemm(
                count,
                n,
                k,
                c.as_mut_ptr(),
                one,
                n_,
                false,
                a,
                a_col,
                a_row,
                b,
                b_col,
                b_row,
                0.0,
                1.0,
                false,
                false,
                false,
                serial,
            );
        }
    });
}

fn bench(c: &mut Criterion) {
    for (m, n, k, what, a_transposed, b_transposed) in SHAPES {
        let random =
            |count: usize| -> Vec<f32> { Tensor::randn(0f32, 1.0, count, &Device::Cpu).unwrap().to_vec1().unwrap() };
        let (a_data, b_data) = (random(m * k), random(k * n));
        let tensor = |data: &[f32], rows: usize, columns: usize, transposed: bool| {
            let shape = if transposed { (columns, rows) } else { (rows, columns) };
            let t = Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
            if transposed { t.t().unwrap() } else { t }
        };
        let (a, b) = (view(&a_data, m, k, a_transposed), view(&b_data, k, n, b_transposed));
        let (at, bt) = (tensor(&a_data, m, k, a_transposed), tensor(&b_data, k, n, b_transposed));
        let mut out = vec![0.0; m * n];
        let mut group = c.benchmark_group(format!("{m}x{n}x{k} {what}"));
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        group.bench_function("echat", |bench| bench.iter(|| gemm(m, n, k, a, b, &mut out, n, false)));
        group.bench_function("gemm crate", |bench| bench.iter(|| by_crate(m, n, k, a, b, &mut out)));
        group.bench_function("candle", |bench| bench.iter(|| at.matmul(&bt).unwrap()));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = bench
}
criterion_main!(benches);
