//! Pinned host memory and the stream that copies from it to a GPU.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};
use candle_core::cuda_backend::{CudaDType, CudaDevice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Storage, Tensor};
use half::bf16;

use super::{call, device, nothing};
use crate::upload::ring::Ring;
use crate::upload::{BUFFERS, Link, STRETCH, Wanted};
use crate::{Error, Result};

const OP: &str = "upload";

/// A buffer and the end of what was last copied from it.
pub(super) struct Buffer {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

/// What copies to one GPU.
struct Stage {
    stream: Arc<CudaStream>,
    ring: Ring<Buffer>,
}

/// By number of the GPU: pinned memory is dear to get, and is kept.
static STAGES: LazyLock<Mutex<HashMap<usize, Arc<Stage>>>> = LazyLock::new(Mutex::default);

fn failed(error: DriverError) -> Error {
    Error::Value { op: OP, message: format!("the GPU does not take a copy: {error}") }
}

impl Stage {
    fn of(device: &CudaDevice) -> Result<Arc<Self>> {
        let compute = device.cuda_stream();
        let context = compute.context();
        let mut stages = STAGES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = stages.get(&context.ordinal()) {
            return Ok(stage.clone());
        }
        let stream = context.new_stream().map_err(failed)?;
        let buffer = || {
            // SAFETY: bytes of any value are bytes, and each is written before it is read.
            let memory = unsafe { context.alloc_pinned_with_flags::<u8>(STRETCH, 0) };
            let memory = memory.map_err(|e| {
                let message = format!("the system gives no {} MiB of pinned memory: {e}", (STRETCH * BUFFERS) >> 20);
                Error::Value { op: OP, message }
            })?;
            Ok(Buffer { memory, copied: context.new_event(None).map_err(failed)? })
        };
        let buffers = (0..BUFFERS).map(|_| buffer()).collect::<Result<Vec<_>>>()?;
        let stage = Arc::new(Self { stream, ring: Ring::new(buffers) });
        stages.insert(context.ordinal(), stage.clone());
        Ok(stage)
    }
}

/// A GPU and its [`Stage`].
pub(super) struct Pinned<'a> {
    device: &'a CudaDevice,
    stage: Arc<Stage>,
}

impl<'a> Pinned<'a> {
    pub(super) fn new(device: &'a CudaDevice) -> Result<Self> {
        Ok(Self { device, stage: Stage::of(device)? })
    }

    fn storage<T: CudaDType>(&self, count: usize) -> candle_core::Result<CudaStorage> {
        let stream = &self.stage.stream;
        stream.context().bind_to_thread().w()?;
        // SAFETY: the memory is taken in the order of the stream that copies to it, and given back in the order of the one that computes with it, which `join` puts
        // after the copies.
        let slice = unsafe {
            let address = result::malloc_async(stream.cu_stream(), count * size_of::<T>()).w()?;
            self.device.cuda_stream().upgrade_device_ptr::<T>(address, count)
        };
        Ok(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }
}

impl Link for Pinned<'_> {
    type Buffer = Buffer;

    fn ring(&self) -> &Ring<Buffer> {
        &self.stage.ring
    }

    fn allocate(&self, wanted: &Wanted) -> Result<Tensor> {
        let (count, on) = (wanted.count(), Device::Cuda(self.device.clone()));
        if count == 0 {
            return nothing(wanted.shape.as_slice(), wanted.dtype, &on);
        }
        let storage = match wanted.dtype {
            DType::F32 => self.storage::<f32>(count),
            DType::BF16 => self.storage::<bf16>(count),
            DType::U8 => self.storage::<u8>(count),
            DType::U32 => self.storage::<u32>(count),
            DType::I64 => self.storage::<i64>(count),
            DType::F64 => self.storage::<f64>(count),
            dtype => return Err(Error::DType { op: OP, dtype }),
        };
        let storage = storage.map_err(|e| device::explained(e, &wanted.shape.as_slice().into(), wanted.dtype, &on))?;
        Ok(Tensor::from_storage(Storage::Cuda(storage), wanted.shape.as_slice(), BackpropOp::none(), false))
    }

    fn ready<'b>(&self, buffer: &'b mut Buffer) -> Result<&'b mut [u8]> {
        buffer.copied.synchronize().map_err(failed)?;
        buffer.memory.as_mut_slice().map_err(failed)
    }

    fn send(&self, buffer: &mut Buffer, count: usize, to: &Tensor, first: usize) -> Result<()> {
        let (_, address) = call::address(OP, to)?;
        let stream = &self.stage.stream;
        stream.context().bind_to_thread().map_err(failed)?;
        let bytes = &buffer.memory.as_slice().map_err(failed)?[..count];
        // SAFETY: `to` has so many bytes from `first` on, was allocated on this stream, and `bytes` stay what they are until `copied` has happened, for which `ready` waits.
        unsafe { result::memcpy_htod_async(address + first as u64, bytes, stream.cu_stream()) }.map_err(failed)?;
        buffer.copied.record(stream).map_err(failed)
    }

    fn join(&self) -> Result<()> {
        let sent = self.stage.stream.record_event(None).map_err(failed)?;
        self.device.cuda_stream().wait(&sent).map_err(failed)
    }
}
