//! Tensors made of bytes in bulk, straight and by way of buffers that go round.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use common::*;
use echat_kernels::upload::{STRETCH, Wanted, tensors, to_device};

fn wanted(dtype: DType, shape: &[usize]) -> Wanted {
    Wanted { dtype, shape: shape.to_vec() }
}

/// Byte `at` of tensor `i`. Any two bytes make a finite bf16, any four a finite f32.
fn byte(i: usize, at: usize) -> u8 {
    ((at * 31 + at / 4099 + i * 7) % 113) as u8
}

fn write(i: usize, first: usize, bytes: &mut [u8]) {
    bytes.iter_mut().enumerate().for_each(|(k, b)| *b = byte(i, first + k));
}

fn expected(i: usize, wanted: &Wanted) -> Vec<u32> {
    let bytes: Vec<u8> = (0..wanted.bytes()).map(|at| byte(i, at)).collect();
    match wanted.dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
        _ => bytes.as_chunks::<2>().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)) << 16).collect(),
    }
}

/// More stretches than there are buffers, of one tensor and of several, some small or empty.
#[test]
fn every_byte_is_where_it_belongs() {
    let list = [
        wanted(DType::BF16, &[5, 1_000_003]),
        wanted(DType::F32, &[3]),
        wanted(DType::F32, &[0, 4]),
        wanted(DType::F32, &[11, STRETCH / 4 + 1]),
        wanted(DType::BF16, &[1]),
        wanted(DType::BF16, &[STRETCH / 2]),
        wanted(DType::F32, &[]),
    ];
    let made = tensors(&Device::Cpu, &list, write).unwrap();
    for (i, (t, wanted)) in made.iter().zip(&list).enumerate() {
        assert_eq!((t.dtype(), t.dims()), (wanted.dtype, wanted.shape.as_slice()));
        assert!(bits(t) == expected(i, wanted), "tensor {i}");
    }
}

#[test]
fn one_thread_writes_what_several_do() {
    let list = [wanted(DType::F32, &[STRETCH]), wanted(DType::BF16, &[9])];
    let of = |threads| at_threads(threads, || tensors(&Device::Cpu, &list, write).unwrap());
    for (one, three) in of(1).iter().zip(&of(3)) {
        assert!(bits(one) == bits(three));
    }
}

#[test]
fn each_byte_is_asked_for_once_in_whole_elements() {
    let list = [wanted(DType::F32, &[2 * STRETCH / 4 + 5]), wanted(DType::BF16, &[7])];
    let asked = Mutex::new(Vec::new());
    tensors(&Device::Cpu, &list, |i, first, bytes| {
        asked.lock().unwrap().push((i, first, first + bytes.len()));
        write(i, first, bytes);
    })
    .unwrap();
    let mut asked = asked.into_inner().unwrap();
    asked.sort_unstable();
    let end = list[0].bytes();
    assert_eq!(asked, [(0, 0, STRETCH), (0, STRETCH, 2 * STRETCH), (0, 2 * STRETCH, end), (1, 0, 14)]);
}

#[test]
fn a_dtype_that_is_not_made_is_an_error() {
    let error = tensors(&Device::Cpu, &[wanted(DType::F16, &[2])], write).unwrap_err().to_string();
    assert!(error.contains("F16"), "{error}");
}

#[test]
fn a_tensor_goes_where_it_is_already() {
    let t = random(1, &[100_000]);
    for t in [t.narrow(0, 3, 70_000).unwrap(), t.reshape((1000, 100)).unwrap().t().unwrap(), t] {
        let there = to_device(&t, &Device::Cpu).unwrap();
        assert_eq!((there.dims(), bits(&there)), (t.dims(), bits(&t)));
    }
    assert_eq!(to_device(&Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap(), &Device::Cpu).unwrap().dims(), [0]);
}

#[cfg(feature = "emulate")]
emulated!(
    every_byte_is_where_it_belongs,
    each_byte_is_asked_for_once_in_whole_elements,
    a_dtype_that_is_not_made_is_an_error
);
