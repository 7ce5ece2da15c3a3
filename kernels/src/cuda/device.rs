//! GPUs: which there are, how one is opened, what its memory holds.
#![allow(unsafe_code)]

use std::ffi::c_void;

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
use candle_core::{DType, Device, Shape};

use super::library;
use crate::{Error, Result};

/// The libraries that a GPU cannot be used without, what each is, and how pip calls it.
const NEEDED: [(&str, &str, &str); 3] = [
    ("cublas", "cuBLAS", "nvidia-cublas"),
    ("cublasLt", "cuBLASLt", "nvidia-cublas"),
    ("curand", "cuRAND", "nvidia-curand"),
];

/// The least compute capability the kernels run on: bf16 and asynchronous copies begin there.
pub(super) const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// A device's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Not taken by any process.
    pub free: u64,
    /// All there is.
    pub total: u64,
    /// The most this process has used at a time.
    pub peak: u64,
}

/// A device as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// As the driver calls it.
    pub name: String,
    /// Major and minor.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Bytes.
    pub memory: u64,
}

fn failed(what: &str, reason: impl std::fmt::Display) -> Error {
    Error::Value { op: "cuda", message: format!("{what}: {reason}") }
}

/// How many GPUs this machine has; none without NVIDIA's driver.
///
/// # Errors
/// A driver that is there and does not work.
pub fn count() -> Result<usize> {
    if !library::present("cuda") {
        return Ok(0);
    }
    match CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        Err(e) => Err(failed("NVIDIA's driver does not answer (nvidia-smi says more)", e)),
    }
}

/// GPU `ordinal`, with a stream of its own. Memory that was used once is kept by this process.
///
/// # Errors
/// No driver, no such GPU, libraries that are missing, a GPU too old: in words.
pub fn open(ordinal: usize) -> Result<Device> {
    match count()? {
        0 if !library::present("cuda") => {
            return Err(failed("no GPU", "NVIDIA's driver (libcuda.so.1) is not on this machine"));
        }
        0 => {
            return Err(failed(
                "no GPU",
                "NVIDIA's driver sees none (is one in this container? CUDA_VISIBLE_DEVICES?)",
            ));
        }
        count if ordinal >= count => {
            return Err(failed("no GPU", format!("number {ordinal} of {count} does not exist")));
        }
        _ => {}
    }
    if let Some((file, name, pip)) = NEEDED.into_iter().find(|(file, ..)| !library::present(file)) {
        let how = format!("lib{file}.so is not among the system's libraries nor in LD_LIBRARY_PATH (pip: {pip})");
        return Err(failed(&format!("{name} is missing"), how));
    }
    new_enough()?;
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: the engine orders its streams itself; memory is freed on the stream that used it.
    unsafe { device.disable_event_tracking() };
    let device = Device::Cuda(device);
    let found = properties(&device)?;
    if found.capability < LEAST_CAPABILITY {
        let ((major, minor), (m, n)) = (found.capability, LEAST_CAPABILITY);
        let has = format!("it has compute capability {major}.{minor}; {m}.{n} (A100) or newer is needed");
        return Err(failed(&found.name, has));
    }
    keep_memory(&device)?;
    Ok(device)
}

/// Errors unless the driver is as new as the toolkit this was built with: an older one lacks functions, and compiles no kernel of it.
fn new_enough() -> Result<()> {
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    let code = unsafe { sys::cuDriverGetVersion(&mut version) };
    code.result().map_err(|e| failed("NVIDIA's driver does not answer (nvidia-smi says more)", e))?;
    let least = sys::CUDA_VERSION as i32;
    if version >= least {
        return Ok(());
    }
    let shown = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    let (is, wants) = (shown(version), shown(least));
    let what = format!("it is for CUDA {is}, and this echat was built with CUDA {wants}");
    Err(failed(
        "NVIDIA's driver is too old",
        format!("{what}: install a newer driver, or build with CUDA {is} (docs/cuda.md says which goes with which)"),
    ))
}

pub(super) fn cuda(device: &Device) -> Result<&CudaDevice> {
    device.as_cuda_device().map_err(|_| failed("a GPU", "was asked for, but the tensors are on the CPU"))
}

/// What `device` is.
///
/// # Errors
/// A device that is no GPU, or does not answer.
pub fn properties(device: &Device) -> Result<Properties> {
    let stream = cuda(device)?.cuda_stream();
    let context = stream.context();
    let read = || {
        let processors = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok::<_, result::DriverError>(Properties {
            name: context.name()?,
            capability: context.compute_capability()?,
            processors: context.attribute(processors)? as u32,
            memory: context.mem_get_info()?.1 as u64,
        })
    };
    read().map_err(|e| failed("the GPU does not answer", e))
}

fn pool(device: &Device) -> Result<sys::CUmemoryPool> {
    let stream = cuda(device)?.cuda_stream();
    // SAFETY: the context is alive, so its device is.
    unsafe { result::device::get_default_mem_pool(stream.context().cu_device()) }
        .map_err(|e| failed("the GPU has no pool of memory", e))
}

/// Without this the driver gives memory back to the system whenever a stream is waited for.
fn keep_memory(device: &Device) -> Result<()> {
    let mut all = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number.
    let code =
        unsafe { sys::cuMemPoolSetAttribute(pool(device)?, attribute, std::ptr::from_mut(&mut all).cast::<c_void>()) };
    code.result().map_err(|e| failed("memory cannot be kept", e))
}

/// What the memory of `device` holds.
///
/// # Errors
/// A device that is no GPU, or does not answer.
pub fn memory(device: &Device) -> Result<Memory> {
    let stream = cuda(device)?.cuda_stream();
    let (free, total) = stream.context().mem_get_info().map_err(|e| failed("the GPU's memory", e))?;
    let mut peak = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the attribute is a 64-bit number.
    let code =
        unsafe { sys::cuMemPoolGetAttribute(pool(device)?, attribute, std::ptr::from_mut(&mut peak).cast::<c_void>()) };
    code.result().map_err(|e| failed("the GPU's memory", e))?;
    Ok(Memory { free: free as u64, total: total as u64, peak })
}

/// Begins to count the peak of [`memory`] anew.
///
/// # Errors
/// A device that is no GPU, or does not answer.
pub fn forget_peak(device: &Device) -> Result<()> {
    let mut zero = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the attribute is a 64-bit number.
    let code =
        unsafe { sys::cuMemPoolSetAttribute(pool(device)?, attribute, std::ptr::from_mut(&mut zero).cast::<c_void>()) };
    code.result().map_err(|e| failed("the GPU's memory", e))
}

/// Waits until `device` has done all it was asked to. A CPU has.
///
/// # Errors
/// What went wrong there since it was last waited for: a kernel that failed, a GPU that fell off the bus.
pub fn synchronize(device: &Device) -> Result<()> {
    let Device::Cuda(device) = device else { return Ok(()) };
    device.synchronize().map_err(fallen)
}

/// What the device says when asked whether it has done its work: an error of anything it was asked for before.
pub(super) fn fallen(error: impl std::fmt::Display) -> Error {
    failed("the GPU failed (its kernel log, `dmesg`, may have an Xid line)", error)
}

/// An error that says what did not fit, if `error` is that the GPU's memory is full.
pub(super) fn explained(error: candle_core::Error, shape: &Shape, dtype: DType, device: &Device) -> Error {
    if !error.to_string().contains("OUT_OF_MEMORY") {
        return error.into();
    }
    let taken = memory(device)
        .map_or_else(|_| String::new(), |m| format!(" ({} of {} are taken)", shown(m.total - m.free), shown(m.total)));
    let bytes = (shape.elem_count() * dtype.size_in_bytes()) as u64;
    Error::OutOfMemory { what: format!("{shape:?} of {dtype:?}, {}, do not fit on the GPU{taken}", shown(bytes)) }
}

/// Bytes as people read them.
fn shown(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}
