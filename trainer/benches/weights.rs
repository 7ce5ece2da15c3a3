//! How fast weights come from the page cache into memory on the CPU: tensor by tensor as candle reads them, in bulk, and into small buffers that are used again, as
//! on the way to a GPU (the copies to it not counted). Writes a file of so many GiB (in the temporary directory) for each dtype, reads it once, and takes the best
//! of five by turns. GB/s are of what is in the file.
//!
//!     cargo bench --workspace --features echat/mpi --bench weights -- [GIB]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Instant;

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{DType, Device, Tensor};
use echat::autograd::{Group, Param};
use echat::model::weights::{Checkpoint, fingerprint};
use echat_kernels::upload::{STRETCH, conversion};
use rayon::prelude::*;

/// Elements of a tensor: a projection of a 7B model.
const SHAPE: (usize, usize) = (4096, 11_008);

fn main() {
    let gib: f64 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(2.0);
    println!("{} threads", rayon::current_num_threads());
    println!("{:<14} {:>6} {:>10} {:>10} {:>10}", "GB/s", "GB", "tensors", "bulk", "buffers");
    for stored in [DType::BF16, DType::F16, DType::F32] {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        let of_one = SHAPE.0 * SHAPE.1 * stored.size_in_bytes();
        let count = (gib * f64::from(1 << 30) / of_one as f64).ceil() as usize;
        let t = Tensor::randn(0f32, 1.0, SHAPE, &Device::Cpu).unwrap().to_dtype(stored).unwrap();
        let names: Vec<String> = (0..count).map(|i| format!("layers.{i}.weight")).collect();
        let list = names.iter().map(|name| (name.clone(), t.clone())).collect();
        candle_core::safetensors::save(&list, &path).unwrap();
        drop((t, list));
        for dtype in [DType::BF16, DType::F32] {
            measure(&path, &names, stored, dtype, (count * of_one) as f64);
        }
    }
}

fn measure(path: &std::path::Path, names: &[String], stored: DType, dtype: DType, bytes: f64) {
    let wanted: Vec<_> = names.iter().map(|name| (name.as_str(), dtype)).collect();
    let file = Checkpoint::open(path).unwrap();
    let (mut best, mut prints) = ([f64::INFINITY; 3], [const { String::new() }; 2]);
    for round in 0..6 {
        let begun = Instant::now();
        // SAFETY: the file is this program's own.
        #[allow(unsafe_code)]
        let map = unsafe { MmapedSafetensors::new(path) }.unwrap();
        let one = |name: &String| map.get(name).unwrap().load(&Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let read: Vec<Tensor> = names.iter().map(one).collect();
        let by_tensor = begun.elapsed().as_secs_f64();
        prints[0] = print(names, &read);
        drop(read);
        let begun = Instant::now();
        let read = file.read(&wanted, &Device::Cpu).unwrap();
        let bulk = begun.elapsed().as_secs_f64();
        prints[1] = print(names, &read);
        drop(read);
        let begun = Instant::now();
        through_buffers(&map, names, stored, dtype);
        let times = [by_tensor, bulk, begun.elapsed().as_secs_f64()];
        // The first round brings the file into the page cache.
        if round > 0 {
            best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
        }
    }
    assert_eq!(prints[0], prints[1]);
    let [by_tensor, bulk, buffers] = best.map(|seconds| bytes / seconds / 1e9);
    let what = format!("{stored:?} → {dtype:?}");
    println!("{what:<14} {:>6.2} {by_tensor:>10.2} {bulk:>10.2} {buffers:>10.2}", bytes / 1e9);
}

fn through_buffers(map: &MmapedSafetensors, names: &[String], stored: DType, dtype: DType) {
    let convert = conversion(stored, dtype).unwrap();
    let elements = STRETCH / dtype.size_in_bytes();
    let pieces: Vec<&[u8]> =
        names.iter().flat_map(|name| map.get(name).unwrap().data().chunks(elements * stored.size_in_bytes())).collect();
    pieces.into_par_iter().for_each_init(
        || vec![0; STRETCH],
        |buffer, piece| convert(piece, &mut buffer[..piece.len() / stored.size_in_bytes() * dtype.size_in_bytes()]),
    );
}

fn print(names: &[String], tensors: &[Tensor]) -> String {
    let params: Vec<Param> =
        names.iter().zip(tensors).map(|(name, t)| Param::constant(name, Group::Decoder, t.clone())).collect();
    fingerprint(&params).unwrap()
}
