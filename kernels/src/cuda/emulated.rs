//! Kernels as host C++, for tests (`emulate.h`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};

use candle_core::{DType, Device, Shape, Tensor};
use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::Kernel;
use super::gemm::{Matrix, Product};
use crate::gemm::{View, gemm};
use crate::tensor::{round_to_bf16, with_mut, with_mut_bf16};
use crate::upload::ring::Ring;
use crate::upload::{BUFFERS, Link, STRETCH, Wanted};
use crate::{Error, Result};

unsafe extern "C" {
    fn echat_emulate(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared: usize,
        args: *const *mut c_void,
        kinds: *const u32,
        count: u32,
    ) -> c_int;
}

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Does `f` with the ops that this thread runs on CPU tensors done by kernels, as host C++.
pub fn emulated<R>(f: impl FnOnce() -> R) -> R {
    with(true, f)
}

/// Does `f` with the ops of this thread done by the CPU's own code, within [`emulated`].
pub fn not_emulated<R>(f: impl FnOnce() -> R) -> R {
    with(false, f)
}

fn with<R>(active: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(active));
    f()
}

pub(super) fn active() -> bool {
    ACTIVE.get()
}

/// A tensor full of NaN, or of the largest integers: what a kernel does not write shows.
pub(super) fn poisoned(shape: &Shape, dtype: DType) -> Result<Tensor> {
    let count = shape.elem_count();
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(vec![f32::NAN; count], shape, &Device::Cpu)?,
        DType::BF16 => Tensor::from_vec(vec![bf16::NAN; count], shape, &Device::Cpu)?,
        DType::F64 => Tensor::from_vec(vec![f64::NAN; count], shape, &Device::Cpu)?,
        DType::U32 => Tensor::from_vec(vec![u32::MAX; count], shape, &Device::Cpu)?,
        dtype => return Err(Error::DType { op: "empty", dtype }),
    })
}

/// Runs a kernel to its end.
pub(super) fn run(
    kernel: Kernel,
    grid: [u32; 3],
    threads: u32,
    shared: usize,
    args: &mut [*mut c_void],
    kinds: &[u32],
) -> Result<()> {
    let failed = |message: String| Err(Error::Value { op: kernel.op, message });
    let Ok(name) = CString::new(kernel.name) else { return failed("a kernel's name holds a zero".into()) };
    if threads == 0 || !threads.is_multiple_of(32) || threads > 1024 {
        return failed(format!("{threads} threads are no whole warps of a block"));
    }
    // SAFETY: the argument vectors have `kinds.len()` entries, and the kinds are compared with the kernel's before it runs. Each pointer among them is to a tensor's
    // elements. That a kernel stays within them is what the tests are for.
    let code = unsafe {
        echat_emulate(name.as_ptr(), grid.as_ptr(), threads, shared, args.as_ptr(), kinds.as_ptr(), kinds.len() as u32)
    };
    match code {
        0 => Ok(()),
        1 => failed(format!("there is no kernel {}", kernel.name)),
        2 => failed(format!("kernel {} takes another number of arguments than {}", kernel.name, kinds.len())),
        i => failed(format!("argument {} of kernel {} is of another kind", i - 100, kernel.name)),
    }
}

/// What stands for pinned memory and the stream that copies from it: what is sent arrives when it is waited for, and no sooner.
pub(super) struct Delayed(Ring<Parcel>);

/// A buffer, and the tensor, the byte in it and the number of bytes that are under way.
pub(super) struct Parcel {
    bytes: Vec<u8>,
    to: Option<(Tensor, usize, usize)>,
}

impl Delayed {
    pub(super) fn new() -> Self {
        Self(Ring::new((0..BUFFERS).map(|_| Parcel { bytes: vec![0; STRETCH], to: None })))
    }
}

impl Parcel {
    fn arrive(&mut self) -> Result<()> {
        let Some((to, first, count)) = self.to.take() else { return Ok(()) };
        let copy = |out: &mut [u8]| out[first..][..count].copy_from_slice(&self.bytes[..count]);
        match to.dtype() {
            DType::BF16 => with_mut_bf16("upload", &to, |x| copy(bytemuck::cast_slice_mut(x.reinterpret_cast_mut()))),
            _ => with_mut("upload", &to, |x| copy(bytemuck::cast_slice_mut(x))),
        }
    }
}

impl Link for Delayed {
    type Buffer = Parcel;

    fn ring(&self) -> &Ring<Parcel> {
        &self.0
    }

    fn allocate(&self, wanted: &Wanted) -> Result<Tensor> {
        poisoned(&wanted.shape.as_slice().into(), wanted.dtype)
    }

    fn ready<'a>(&self, buffer: &'a mut Parcel) -> Result<&'a mut [u8]> {
        buffer.arrive()?;
        Ok(&mut buffer.bytes)
    }

    fn send(&self, buffer: &mut Parcel, count: usize, to: &Tensor, first: usize) -> Result<()> {
        buffer.to = Some((to.clone(), first, count));
        Ok(())
    }

    fn join(&self) -> Result<()> {
        self.0.each(Parcel::arrive)
    }
}

/// A product by the CPU's own, on f32 copies.
pub(super) fn product(product: &Product) -> Result<()> {
    let [m, n, k] = product.size;
    let read = |t| crate::tensor::read(product.op, t);
    let (a, b) = (read(product.a.tensor)?, read(product.b.tensor)?);
    let bias = product.bias.map(read).transpose()?;
    let mut c = read(product.c.tensor)?.to_vec();
    let view = |data, x: &Matrix, i: usize| {
        let view = View { data, row: x.stride, col: 1 };
        let view = View { data: &view.data[(x.offset + i * x.step).min(view.data.len())..], ..view };
        if x.transposed { view.t() } else { view }
    };
    for i in 0..product.batch {
        let c = &mut c[product.c.offset + i * product.c.step..];
        if let Some(bias) = &bias {
            (0..m).for_each(|row| c[row * product.c.stride..][..n].copy_from_slice(bias));
        }
        let add = product.accumulate || bias.is_some();
        gemm(m, n, k, view(&a, &product.a, i), view(&b, &product.b, i), c, product.c.stride, add);
    }
    drop((a, b, bias));
    match product.c.tensor.dtype() {
        DType::BF16 => with_mut_bf16(product.op, product.c.tensor, |out| round_to_bf16(&c, out)),
        _ => with_mut(product.op, product.c.tensor, |out| out.copy_from_slice(&c)),
    }
}
