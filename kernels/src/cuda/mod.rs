//! Running kernels: on a GPU (feature `cuda`), or in tests as host C++ (feature `emulate`).
//!
//! An op's `cuda.rs` describes each launch as a [`Call`]; its kernels are in `kernel.cu` beside it. A kernel runs on the stream of its operands' device,
//! after all that was launched before; nothing here waits for one.

#[cfg(feature = "cuda")]
mod blaslt;
mod call;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "emulate")]
mod emulated;
mod gemm;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
mod nvrtc;

use candle_core::{DType, Device, Shape, Tensor, WithDType};

use crate::{Error, Result};

pub(crate) use call::{Call, Kernel};
#[cfg(feature = "cuda")]
pub use device::{Memory, Properties, count, forget_peak, memory, open, properties, synchronize};
#[cfg(feature = "emulate")]
pub use emulated::emulated;
pub(crate) use gemm::{Matrix, Product};
#[cfg(feature = "cuda")]
pub use nvrtc::set_kernel_cache;

/// The source of an op's kernels, with all it includes in place, and what nvcc made of it when there was one.
#[allow(dead_code)]
pub(crate) struct Source {
    name: &'static str,
    text: &'static str,
    image: Option<&'static [u8]>,
}

#[allow(dead_code)]
mod sources {
    use super::Source;
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// Whether ops on `t` are kernels' work.
pub(crate) fn takes(t: &Tensor) -> bool {
    #[cfg(feature = "emulate")]
    if emulated::active() {
        return true;
    }
    t.device().is_cuda()
}

/// Where the elements of `t`, contiguous and on a GPU, lie in its memory: for libraries that work on them there. They must come
/// after what the tensor's device was asked for before, and before what it is asked for next.
#[cfg(feature = "cuda")]
pub fn pointer(t: &Tensor) -> Result<u64> {
    match t.device() {
        Device::Cuda(_) => Ok(call::address("pointer", t)?.1),
        device => Err(Error::Device { op: "pointer", device: format!("{device:?}") }),
    }
}

/// A tensor whose elements are still to be written, on the device of `like`.
pub(crate) fn empty(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    let shape = shape.into();
    #[cfg(feature = "emulate")]
    if emulated::active() {
        return emulated::poisoned(&shape, dtype);
    }
    // SAFETY: device memory of numbers, which any bytes are; the kernels that follow write all of it before others read it.
    #[allow(unsafe_code)]
    let made = unsafe { Tensor::empty(&shape, dtype, like.device()) };
    made.map_err(|e| full(e, shape.elem_count() * dtype.size_in_bytes(), like))
}

/// Why a tensor of so many bytes could not be made.
fn full(error: candle_core::Error, bytes: usize, like: &Tensor) -> Error {
    #[cfg(feature = "cuda")]
    return device::explained(error, bytes, like);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (bytes, like);
        error.into()
    }
}

/// A tensor of zeros on the device of `like`.
pub(crate) fn zeros(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    let shape = shape.into();
    Tensor::zeros(&shape, dtype, like.device()).map_err(|e| full(e, shape.elem_count() * dtype.size_in_bytes(), like))
}

/// `values` on the device of `like`.
pub(crate) fn upload<T: WithDType>(values: &[T], like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, values.len(), like.device())?)
}

/// Errors unless all of `tensors` are on one device.
pub(crate) fn together(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    let place = |t: &Tensor| match t.device() {
        Device::Cpu => None,
        device => Some(device.location()),
    };
    match tensors.windows(2).find(|pair| place(pair[0]) != place(pair[1])) {
        None => Ok(()),
        Some(pair) => Err(Error::Device { op, device: format!("{:?} and {:?}", pair[0].device(), pair[1].device()) }),
    }
}

/// How a kernel for this dtype is named.
pub(crate) fn suffix(op: &'static str, dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        dtype => Err(Error::DType { op, dtype }),
    }
}

/// Packs of 16 bytes that a thread holds at most, as in `common.cuh`.
const ROW_PACKS: usize = 4;
/// Threads of a block that makes a row at most.
const ROW_THREADS: usize = 512;

/// Threads of a block that makes a row of `d` numbers: two packs of 16 bytes for each thread, more where the row is wide.
pub(crate) fn row_threads(op: &'static str, d: usize, dtype: DType) -> Result<usize> {
    let packs = d.div_ceil(16 / dtype.size_in_bytes());
    match packs <= ROW_PACKS * ROW_THREADS {
        true => Ok(packs.div_ceil(2).next_multiple_of(32).clamp(32, ROW_THREADS)),
        false => Err(Error::Value { op, message: format!("rows of {d} numbers are too wide") }),
    }
}

/// The sum of the rows of `x` [t, d]: [d] f32.
pub(crate) fn column_sum(op: &'static str, x: &Tensor) -> Result<Tensor> {
    let (rows, d) = crate::tensor::dims2(op, "x", x)?;
    let sum = empty(d, DType::F32, x)?;
    let name = format!("column_sum_{}", suffix(op, x.dtype())?);
    let call = Call::new(op, "cuda", &name).tensor(x).tensor(&sum).u32(rows).u32(d);
    call.launch([d.div_ceil(32), 1, 1], 256, 0)?;
    Ok(sum)
}
