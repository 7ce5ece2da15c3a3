//! Kernels on a GPU: loaded once for each device, launched on its stream.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::{self, CudaContext, CudaFunction, CudaModule, DevicePtr, sys};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};

use super::{Kernel, Source, nvrtc, sources};
use crate::{Error, Result};

type Functions = HashMap<(usize, String), Loaded>;

/// A function, and its most dynamic shared memory so far asked for.
struct Loaded {
    function: CudaFunction,
    shared: u32,
}

static FUNCTIONS: LazyLock<Mutex<Functions>> = LazyLock::new(Mutex::default);

/// Dynamic shared memory a block may have without asking: 48 KiB, less what a kernel itself declares.
const SHARED_FOR_FREE: u32 = 32 << 10;

/// Where the elements of `storage` lie on the device.
pub(super) fn address(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    // The guards only record events, and the engine orders its streams itself.
    let address = match &storage.slice {
        CudaStorageSlice::F32(s) => s.device_ptr(&stream).0,
        CudaStorageSlice::BF16(s) => s.device_ptr(&stream).0,
        CudaStorageSlice::U32(s) => s.device_ptr(&stream).0,
        CudaStorageSlice::I64(s) => s.device_ptr(&stream).0,
        CudaStorageSlice::U8(s) => s.device_ptr(&stream).0,
        CudaStorageSlice::F64(s) => s.device_ptr(&stream).0,
        _ => return Err(Error::Value { op: "cuda", message: "a dtype no kernel takes".into() }),
    };
    Ok(address)
}

/// Puts a kernel on the device's stream.
pub(super) fn launch(
    device: &CudaDevice,
    kernel: Kernel,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    args: &mut [*mut c_void],
) -> Result<()> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread().w()?;
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (context.ordinal(), kernel.name.to_owned());
    if !functions.contains_key(&key) {
        let function = load(context, kernel)?;
        functions.insert(key.clone(), Loaded { function, shared: SHARED_FOR_FREE });
    }
    let Some(loaded) = functions.get_mut(&key) else { return Ok(()) };
    if shared > loaded.shared {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        loaded.function.set_attribute(attribute, shared as i32).map_err(|_| {
            let kib = shared.div_ceil(1024);
            let message =
                format!("kernel {} needs {kib} KiB of shared memory for a block, more than this GPU has", kernel.name);
            Error::Value { op: kernel.op, message }
        })?;
        loaded.shared = shared;
    }
    // SAFETY: an op's `cuda.rs` passes what its `kernel.cu` declares (the emulated tests compare the two); memory is freed in the order of the stream.
    let result = unsafe {
        let (grid, block) = ((grid[0], grid[1], grid[2]), (threads, 1, 1));
        driver::result::launch_kernel(loaded.function.cu_function(), grid, block, shared, stream.cu_stream(), args)
    };
    result.map_err(|e| Error::Value { op: kernel.op, message: format!("kernel {}: {e}", kernel.name) })
}

fn load(context: &Arc<CudaContext>, kernel: Kernel) -> Result<CudaFunction> {
    let failed = |message: String| Error::Value { op: kernel.op, message };
    let source = sources::KERNELS.iter().find(|source| source.name == kernel.module);
    let source = source.ok_or_else(|| failed(format!("no kernels were built for {}", kernel.module)))?;
    let module = module(context, source).map_err(|e| failed(format!("kernels of {}: {e}", kernel.module)))?;
    module.load_function(kernel.name).map_err(|e| failed(format!("kernel {}: {e}", kernel.name)))
}

fn module(context: &Arc<CudaContext>, source: &Source) -> std::result::Result<Arc<CudaModule>, String> {
    let (major, minor) = context.compute_capability().map_err(|e| e.to_string())?;
    let ptx = match source.image {
        Some(image) => Ptx::from_binary(image.to_vec()),
        None => nvrtc::compile(source, major, minor)?,
    };
    context.load_module(ptx).map_err(|e| e.to_string())
}
