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
#[cfg(feature = "cuda")]
mod pinned;
#[cfg(feature = "cuda")]
mod readback;

use std::sync::OnceLock;

use candle_core::{DType, Device, Shape, Tensor, WithDType};

use crate::upload::{Wanted, staged};
use crate::{Error, Result};

pub(crate) use call::{Call, Kernel};
#[cfg(feature = "cuda")]
pub use device::{Memory, Properties, count, forget_peak, memory, open, properties, synchronize};
#[cfg(feature = "emulate")]
pub use emulated::{emulated, not_emulated};
pub(crate) use gemm::{Matrix, Product};
#[cfg(feature = "cuda")]
pub use nvrtc::set_kernel_cache;
#[cfg(feature = "cuda")]
pub(crate) use readback::Coming;

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

/// The compute capability of `device`, that of an H100 where kernels run as host C++; none where none run.
pub(crate) fn capability(device: &Device) -> Option<(i32, i32)> {
    #[cfg(feature = "emulate")]
    if emulated::active() {
        return Some((9, 0));
    }
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => device.cuda_stream().context().compute_capability().ok(),
        _ => None,
    }
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
    if shape.elem_count() == 0 {
        return nothing(shape, dtype, like.device());
    }
    #[cfg(feature = "emulate")]
    if emulated::active() {
        return emulated::poisoned(&shape, dtype);
    }
    // SAFETY: device memory of numbers, which any bytes are; the kernels that follow write all of it before others read it.
    #[allow(unsafe_code)]
    let made = unsafe { Tensor::empty(&shape, dtype, like.device()) };
    made.map_err(|e| full(e, &shape, dtype, like))
}

/// A tensor without elements.
fn nothing(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // CUDA refuses to give no memory: it is none of a little.
    Ok(Tensor::zeros(1, dtype, device)?.narrow(0, 0, 0)?.reshape(shape.into())?)
}

/// Why a tensor could not be made.
fn full(error: candle_core::Error, shape: &Shape, dtype: DType, like: &Tensor) -> Error {
    #[cfg(feature = "cuda")]
    return device::explained(error, shape, dtype, like.device());
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (shape, dtype, like);
        error.into()
    }
}

/// A tensor of zeros on the device of `like`.
pub(crate) fn zeros(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    let shape = shape.into();
    Tensor::zeros(&shape, dtype, like.device()).map_err(|e| full(e, &shape, dtype, like))
}

/// `values` on the device of `like`.
pub(crate) fn upload<T: WithDType>(values: &[T], like: &Tensor) -> Result<Tensor> {
    match values {
        [] => empty(0, T::DTYPE, like),
        _ => crate::upload::to_device(&Tensor::from_slice(values, values.len(), &Device::Cpu)?, like.device()),
    }
}

/// [`crate::upload::tensors`], if `device` is one that kernels run on.
pub(crate) fn upload_tensors(
    device: &Device,
    wanted: &[Wanted],
    fill: &(impl Fn(usize, usize, &mut [u8]) + Sync),
) -> Option<Result<Vec<Tensor>>> {
    #[cfg(feature = "emulate")]
    if emulated::active() {
        return Some(staged(&emulated::Delayed::new(), wanted, fill));
    }
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Some(pinned::Pinned::new(device).and_then(|link| staged(&link, wanted, fill))),
        _ => None,
    }
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

/// The name of the dtype that all of `tensors` must have. (A kernel would take the bits of one for those of the other.)
pub(crate) fn alike(op: &'static str, tensors: &[&Tensor]) -> Result<&'static str> {
    match tensors.windows(2).find(|pair| pair[0].dtype() != pair[1].dtype()) {
        None => tensors.first().map_or(Ok("f32"), |t| suffix(op, t.dtype())),
        Some(pair) => {
            let message = format!("operands of {:?} and {:?}: kernels take one", pair[0].dtype(), pair[1].dtype());
            Err(Error::Value { op, message })
        }
    }
}

/// Numbers of `dtype` in 16 bytes.
pub(crate) fn pack(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

/// How a kernel is named in which a thread of [`row_threads`] holds two packs, or up to [`ROW_PACKS`].
pub(crate) fn width(d: usize, dtype: DType) -> &'static str {
    if d.div_ceil(pack(dtype)) <= 2 * ROW_THREADS { "narrow" } else { "wide" }
}

/// Blocks of `threads` that share `rows` rows and sum something over theirs: enough to fill a large GPU, and so few that their sums are little beside the rows.
pub(crate) fn row_blocks(rows: usize, threads: usize) -> usize {
    rows.min((rows / 16).max(264)).min((1 << 17) / threads)
}

/// Rows that a block of [`tiles`] makes, as in `common.cuh`.
const TILE_ROWS: usize = 8;

/// Blocks, and threads of each, that make `rows` rows of `d` numbers of `dtype`: a thread has a pack of columns in [`TILE_ROWS`] rows.
pub(crate) fn tiles(rows: usize, d: usize, dtype: DType) -> ([usize; 3], usize) {
    let packs = d.div_ceil(pack(dtype));
    let across = packs.div_ceil(256);
    let threads = packs.div_ceil(across.max(1)).next_multiple_of(32).max(32);
    ([rows.div_ceil(TILE_ROWS), across, 1], threads)
}

/// Threads of a block that goes over numbers without regard to rows.
pub(crate) const FLAT_THREADS: usize = 256;

/// Blocks of [`FLAT_THREADS`] for `n` numbers of `dtype`, two packs for each thread.
pub(crate) fn flat(n: usize, dtype: DType) -> [usize; 3] {
    [n.div_ceil(2 * FLAT_THREADS * pack(dtype)), 1, 1]
}

/// Rows of a chunk, as in `common.cuh`.
const CHUNK_ROWS: usize = 32;
/// Threads of a block that makes a chunk's rows: its warps have rows, its lanes a pack of columns each.
pub(crate) const CHUNK_THREADS: usize = 256;

/// Chunks of `rows` rows in `sequences` sequences (`common.cuh`), 0 for no regard to sequences, and blocks for each to have `d` columns.
pub(crate) fn chunks(rows: usize, sequences: usize, d: usize, dtype: DType) -> [usize; 3] {
    let count = if sequences == 0 { rows.div_ceil(CHUNK_ROWS) } else { rows / CHUNK_ROWS + sequences };
    [count, d.div_ceil(32 * pack(dtype)), 1]
}

/// The tensor in `slot` if it is on the device of `like`, else one of `values` there, which an empty slot then keeps.
pub(crate) fn kept<T: WithDType>(
    slot: &OnceLock<Tensor>,
    like: &Tensor,
    values: impl FnOnce() -> Vec<T>,
) -> Result<Tensor> {
    if let Some(t) = slot.get().filter(|t| t.device().same_device(like.device())) {
        return Ok(t.clone());
    }
    let t = upload(&values(), like)?;
    let _ = slot.set(t.clone());
    Ok(t)
}

/// The sum of the rows of `x` (seen as rows of its last dimension): [d] f32. Stretches of rows are summed by blocks of their own, and then those sums, in an order
/// that follows from the sizes.
pub(crate) fn column_sum(op: &'static str, x: &Tensor) -> Result<Tensor> {
    let (rows, d) = crate::tensor::as_rows(op, "x", x)?;
    let across = d.div_ceil(32 * pack(x.dtype())).max(1);
    let stretches = rows.div_ceil(64).min(1024_usize.div_ceil(across)).clamp(1, 512);
    let partial = sum_stretches(op, x, rows, d, stretches)?;
    let sum = if stretches == 1 { partial } else { sum_stretches(op, &partial, stretches, d, 1)? };
    Ok(sum.reshape(d)?)
}

fn sum_stretches(op: &'static str, x: &Tensor, rows: usize, d: usize, stretches: usize) -> Result<Tensor> {
    let sums = empty((stretches, d), DType::F32, x)?;
    let name = format!("column_sum_{}", suffix(op, x.dtype())?);
    let call = Call::new(op, "cuda", &name).tensor(x).tensor(&sums).u32(rows).u32(d).u32(rows.div_ceil(stretches));
    call.launch([stretches, d.div_ceil(32 * pack(x.dtype())), 1], 256, 0)?;
    Ok(sums)
}
