//! Copies to the host that nothing waits for.
#![allow(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, PinnedHostSlice, result};

use super::call::address;
use super::device::{cuda, fallen};
use crate::Result;

/// Page-locked memory: only there a GPU writes without its host.
type Place = PinnedHostSlice<f64>;

/// Places nobody uses, each with the number of its GPU: taking page-locked memory would wait for the GPU.
static FREE: Mutex<Vec<(usize, Place)>> = Mutex::new(Vec::new());

/// Numbers in a place at least: more than a step has.
const PLACE: usize = 1 << 10;

/// Numbers on their way.
#[derive(Debug)]
pub struct Coming {
    gpu: usize,
    place: Option<Place>,
    len: usize,
    /// Comes after them on their stream.
    done: CudaEvent,
}

impl Coming {
    /// Starts to bring the elements of `numbers`, f64 and contiguous on a GPU.
    pub(crate) fn start(numbers: &Tensor) -> Result<Self> {
        let len = numbers.elem_count();
        let (_, from) = address("readback", numbers)?;
        let stream = cuda(numbers.device())?.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().map_err(fallen)?;
        let gpu = context.ordinal();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = free.iter().position(|(of, place)| *of == gpu && place.len() >= len);
        let mut place = match fits {
            Some(at) => free.swap_remove(at).1,
            // SAFETY: it is read only after something was written to it.
            None => unsafe { context.alloc_pinned_with_flags(len.max(PLACE), 0) }.map_err(fallen)?,
        };
        drop(free);
        let to = &mut place.as_mut_slice().map_err(fallen)?[..len];
        // SAFETY: the tensor's memory is freed in the order of this stream; the place is not given to anybody else, nor freed, before `done`.
        unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }.map_err(fallen)?;
        let done = stream.record_event(None).map_err(fallen)?;
        Ok(Self { gpu, place: Some(place), len, done })
    }

    /// Whether they have arrived.
    pub(crate) fn is_there(&self) -> Result<bool> {
        self.done.try_is_complete().map_err(fallen)
    }

    /// The numbers; waits for them.
    pub(crate) fn numbers(self) -> Result<Vec<f64>> {
        self.done.synchronize().map_err(fallen)?;
        let place = self.place.as_ref().map(Place::as_slice).transpose().map_err(fallen)?;
        Ok(place.map_or_else(Vec::new, |place| place[..self.len].to_vec()))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        if self.done.is_complete() {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push((self.gpu, place));
        } else {
            // The GPU may still write there, and may never be done if another rank is gone: nobody waits for it here.
            std::mem::forget(place);
        }
    }
}
