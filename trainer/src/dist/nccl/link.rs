//! A communicator with its stream, and the sums that are under way there.

use std::collections::{BTreeMap, VecDeque};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys};
use candle_core::{Device, Tensor};

use super::super::{Error, Result};
use super::ffi::{Comm, ID_BYTES, Library};

/// The communicator of this rank's GPU.
pub struct Link {
    comm: Comm,
    /// What the GPU computes on.
    compute: Arc<CudaStream>,
    /// What it sums on.
    stream: Arc<CudaStream>,
    /// The number of the latest sum.
    latest: u64,
    under_way: BTreeMap<u64, Sum>,
    /// Of each sum that was finished and not counted by [`Link::count_waits`], before and after the compute stream waited for it.
    waits: VecDeque<[CudaEvent; 2]>,
    waited: Duration,
}

/// A sum under way.
struct Sum {
    /// Kept from being freed.
    tensors: [Tensor; 2],
    /// Comes after it on its stream.
    done: Option<CudaEvent>,
}

fn failed(error: DriverError) -> Error {
    Error::Driver(error.to_string())
}

/// An event that knows its time, and comes after all that `stream` was asked for.
fn timed(stream: &CudaStream) -> Result<CudaEvent> {
    stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed)
}

impl Link {
    /// Begins to connect `device`, the GPU of rank `rank` of `size`, to the communicator `id`.
    pub fn connect(
        library: &'static Library,
        id: [u8; ID_BYTES],
        rank: usize,
        size: usize,
        device: &Device,
    ) -> Result<Self> {
        let compute = super::gpu::stream(device)?;
        let context = compute.context();
        context.bind_to_thread().map_err(failed)?;
        // Its few blocks come before those of the kernels beside it, which would else keep them waiting.
        let (_, greatest) = result::stream::get_priority_range().map_err(failed)?;
        let stream = context.new_stream_with_priority(greatest).map_err(failed)?;
        let comm = library.connect(id, rank, size)?;
        let (under_way, waits) = (BTreeMap::new(), VecDeque::new());
        Ok(Self { comm, compute, stream, latest: 0, under_way, waits, waited: Duration::ZERO })
    }

    /// The library's version.
    pub fn version(&self) -> String {
        self.comm.version()
    }

    /// [`Comm::is_ready`].
    pub fn is_ready(&self, call: &'static str) -> Result<bool> {
        self.comm.is_ready(call)
    }

    /// Asks for the sum of `from` over all ranks in `to`, or in the same place, after all that the GPU was asked for; [`Link::queued`] must
    /// follow as soon as the communicator is ready, and [`Link::finish`] some time after that. Returns a number to know the sum by.
    pub fn start(&mut self, from: Tensor, to: Tensor) -> Result<u64> {
        let before = self.compute.record_event(None).map_err(failed)?;
        self.stream.wait(&before).map_err(failed)?;
        self.latest += 1;
        // Before it is asked for: it may be on its way even if that fails.
        let tensors = [from, to];
        let sum = self.under_way.entry(self.latest).or_insert(Sum { tensors, done: None });
        self.comm.all_reduce(&sum.tensors[0], &sum.tensors[1], &self.stream)?;
        Ok(self.latest)
    }

    /// The sum `id` is on its stream.
    pub fn queued(&mut self, id: u64) -> Result<()> {
        let sum = self.under_way.get_mut(&id).ok_or(Error::NotStarted)?;
        sum.done = Some(self.stream.record_event(None).map_err(failed)?);
        Ok(())
    }

    /// Has what the GPU is asked for from now on come after the sum `id`.
    pub fn finish(&mut self, id: u64) -> Result<()> {
        let sum = self.under_way.remove(&id).ok_or(Error::NotStarted)?;
        let done = sum.done.as_ref().ok_or(Error::NotStarted)?;
        let before = timed(&self.compute)?;
        self.compute.wait(done).map_err(failed)?;
        self.waits.push_back([before, timed(&self.compute)?]);
        Ok(())
    }

    /// Adds up how long the finished sums that the GPU has come past were waited for.
    pub fn count_waits(&mut self) -> Result<()> {
        while let Some([before, after]) = self.waits.front() {
            if !after.try_is_complete().map_err(failed)? {
                break;
            }
            let milliseconds = before.elapsed_ms(after).map_err(failed)?;
            self.waited += Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3);
            self.waits.pop_front();
        }
        Ok(())
    }

    /// The sum of these times since this was last asked.
    pub fn take_waited(&mut self) -> Duration {
        take(&mut self.waited)
    }

    /// [`Comm::finalize`].
    pub fn finalize(&self) -> Result<()> {
        self.comm.finalize()
    }

    /// [`Comm::abort`].
    pub fn abort(self, limit: Duration) {
        self.comm.abort(limit);
    }
}
