//! Tensors out of the host's bytes, in bulk.
//!
//! Several threads write stretches of bytes at a time: on a CPU straight into the tensors, for a GPU into a few buffers of pinned memory that go round. From these a
//! stream of their own copies to the GPU, beside what it computes: nothing here waits for kernels, and no kernel that is asked for later begins before the copies are over.

mod convert;
mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub(crate) mod ring;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod staged;

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};

use crate::{Error, Result};
pub use convert::{Conversion, conversion};
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub(crate) use staged::{BUFFERS, Link, tensors as staged};

const OP: &str = "upload";

/// Bytes that one thread writes at a time, a whole number of elements of every dtype.
pub const STRETCH: usize = 4 << 20;

/// Up to so many bytes the driver takes along with the command; what is longer and not pinned it first copies itself, while the GPU's stream waits.
const SMALL: usize = 64 << 10;

/// A tensor to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// f32 or bf16, and on a GPU u8, u32, i64 and f64 too.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

impl Wanted {
    /// Elements it has.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes they take.
    pub fn bytes(&self) -> usize {
        self.count() * self.dtype.size_in_bytes()
    }
}

/// The tensors `wanted`, in this order, on `device`. `fill(i, first, bytes)` writes the bytes of tensor `i` from its byte `first` on (a whole number of elements, as the
/// machine holds them), each once, in any order and from several threads; it must not wait for other threads. On a GPU the bytes arrive some time later, but before
/// anything reads them there.
///
/// Errors: a dtype that cannot be made, memory that does not suffice, a GPU that fails.
pub fn tensors(
    device: &Device,
    wanted: &[Wanted],
    fill: impl Fn(usize, usize, &mut [u8]) + Sync,
) -> Result<Vec<Tensor>> {
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if let Some(tensors) = crate::cuda::upload_tensors(device, wanted, &fill) {
        return tensors;
    }
    if !device.is_cpu() {
        return Err(Error::Device { op: OP, device: format!("{device:?}") });
    }
    wanted.iter().enumerate().map(|(i, wanted)| cpu::tensor(wanted, |first, bytes| fill(i, first, bytes))).collect()
}

/// `t` on `device`. Unlike candle's own this waits for nothing that a GPU computes when `t` is on the CPU, however large it is.
///
/// Errors: memory that does not suffice, a GPU that fails.
pub fn to_device(t: &Tensor, device: &Device) -> Result<Tensor> {
    let size = t.elem_count() * t.dtype().size_in_bytes();
    if !t.device().is_cpu() || device.is_cpu() || size <= SMALL {
        return Ok(t.to_device(device)?);
    }
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return Ok(t.to_device(device)?) };
    let start = layout.start_offset() * t.dtype().size_in_bytes();
    let bytes = bytes_of(storage).ok_or(Error::DType { op: OP, dtype: t.dtype() })?;
    let bytes = &bytes[start..][..size];
    let wanted = Wanted { dtype: t.dtype(), shape: t.dims().to_vec() };
    let mut made = tensors(device, &[wanted], |_, first, out| out.copy_from_slice(&bytes[first..][..out.len()]))?;
    Ok(made.swap_remove(0))
}

/// The elements' bytes, as the machine holds them.
fn bytes_of(storage: &CpuStorage) -> Option<&[u8]> {
    use half::slice::HalfFloatSliceExt;
    Some(match storage {
        CpuStorage::F32(x) => bytemuck::cast_slice(x),
        CpuStorage::BF16(x) => bytemuck::cast_slice(x.reinterpret_cast()),
        CpuStorage::U8(x) => x,
        CpuStorage::U32(x) => bytemuck::cast_slice(x),
        CpuStorage::I64(x) => bytemuck::cast_slice(x),
        CpuStorage::F64(x) => bytemuck::cast_slice(x),
        _ => return None,
    })
}

/// All of `wanted` in stretches: which tensor, and which of its bytes.
#[cfg_attr(not(any(feature = "cuda", feature = "emulate")), allow(dead_code))]
fn stretches(wanted: &[Wanted]) -> Vec<(usize, Range<usize>)> {
    let of = |(i, wanted): (usize, &Wanted)| {
        let size = wanted.bytes();
        (0..size).step_by(STRETCH).map(move |first| (i, first..size.min(first + STRETCH)))
    };
    wanted.iter().enumerate().flat_map(of).collect()
}
