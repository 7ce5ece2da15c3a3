//! Sums on GPUs by NCCL; everything else goes over the hosts.
//!
//! A sum runs on a stream of its own, after what the GPU was asked for before it was started, beside what it is asked for next, and before what it is
//! asked for once [`Collective::finish_sum`] was called. The host waits in [`Collective::await_numbers`] alone, and looks after the other ranks there.

mod check;
mod ffi;
mod gpu;
mod link;
#[cfg(test)]
mod tests;

use std::thread::sleep;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use echat_kernels::readback::Readback;

use super::waiting::Waiting;
use super::{Collective, Error, Pending, Result, State, World};
pub use check::check;
use ffi::{ID_BYTES, Library, NAMES};
use gpu::Gpu;
use link::Link;

/// How long ranks that still answer have for it, after NCCL has failed: longer than it takes for the highest of them to report.
const ROLL_CALL: Duration = Duration::from_secs(6);
/// How long the end of a failed communicator may take.
const ABORT: Duration = Duration::from_secs(2);

/// The collective of ranks that may have GPUs: that of their hosts and, once attached, NCCL.
pub struct Nccl {
    host: Box<dyn Collective>,
    timeout: Option<Duration>,
    link: Option<Link>,
}

impl Nccl {
    /// `host` with NCCL to come; `timeout` is that of `host`.
    pub fn new(host: Box<dyn Collective>, timeout: Option<Duration>) -> Self {
        Self { host, timeout, link: None }
    }

    /// Connects the GPUs of all ranks; this one's is `device`.
    fn connect(&mut self, device: &Device) -> Result<Vec<String>> {
        let library = Library::open(&NAMES)?;
        let mine = Gpu::of(device, &self.host.world().host, library.version())?;
        let all = self.host.all_gather_bytes(mine.to_line().as_bytes())?;
        let all: Vec<Gpu> = all.iter().map(|line| Gpu::from_line(&String::from_utf8_lossy(line))).collect();
        let warning = gpu::compare(&all)?;
        let (rank, size) = (self.host.world().rank, self.host.world().size);
        let mut id = if rank == 0 { library.unique_id()?.to_vec() } else { Vec::new() };
        self.host.broadcast_bytes(0, &mut id)?;
        let id = <[u8; ID_BYTES]>::try_from(id).map_err(|_| Error::NotStarted)?;
        self.host.barrier()?;
        self.link = Some(Link::connect(library, id, rank, size, device)?);
        self.until("connecting", Ok)?;
        let ranks = if size == 1 { "1 rank" } else { &format!("{size} ranks") };
        let mut notes = vec![format!("gradients of {ranks} are summed by NCCL {}", library.version())];
        notes.extend(warning);
        Ok(notes)
    }

    /// Starts the sum of `from` over all ranks, to be written to `to`: the same tensor, or one that overlaps it nowhere.
    fn start_into(&mut self, from: &Tensor, to: &Tensor) -> Result<Pending> {
        let started = self.link.as_mut().ok_or(Error::NotStarted)?.start(from.clone(), to.clone());
        let id = started.map_err(|error| roll_call(&mut *self.host, self.timeout, error))?;
        // Before that it is not on its stream.
        self.until("all-reduce", Ok)?;
        self.link.as_mut().ok_or(Error::NotStarted)?.queued(id)?;
        Ok(Pending(State::Queued(id)))
    }

    /// Waits, giving up the processor, until `done` says so; it is told whether NCCL has done what it was asked for last. NCCL's errors
    /// end it, and ranks that are gone for too long.
    fn until(&mut self, call: &'static str, done: impl Fn(bool) -> Result<bool>) -> Result<()> {
        let Some(link) = &self.link else { return Err(Error::NotStarted) };
        let mut waiting =
            Waiting::new(call, "no rank in particular: all wait for their GPUs (NCCL_DEBUG=INFO says what NCCL does)");
        loop {
            let ready = match link.is_ready(call) {
                Ok(ready) => ready,
                Err(error) => return Err(roll_call(&mut *self.host, self.timeout, error)),
            };
            if done(ready)? {
                return Ok(());
            }
            self.host.watch(&mut waiting)?;
            pause(waiting.started);
        }
    }
}

/// Before another look at something that began at `begun`: what takes longer than a moment is worth a sleep.
fn pause(begun: Instant) {
    const YIELD_FOR: Duration = Duration::from_millis(2);
    const NAP: Duration = Duration::from_micros(50);
    if begun.elapsed() < YIELD_FOR { std::thread::yield_now() } else { sleep(NAP) }
}

/// `error`, with the ranks that do not answer when asked. Where ranks wait without end, they answer nobody.
fn roll_call(host: &mut dyn Collective, timeout: Option<Duration>, error: Error) -> Error {
    let Error::Nccl { call, message, .. } = error else { return error };
    let mut missing = String::new();
    let mut waiting = Waiting { at_once: true, ..Waiting::new(call, "") };
    while timeout.is_some() && host.world().size > 1 && waiting.started.elapsed() < ROLL_CALL {
        match host.watch(&mut waiting) {
            Ok(()) => sleep(Duration::from_millis(5)),
            Err(Error::Timeout { missing: silent, .. }) => {
                if !silent.is_empty() {
                    missing = format!("; not waiting with the others: {silent}");
                }
                break;
            }
            Err(_) => break,
        }
    }
    Error::Nccl { call, message, missing }
}

impl Collective for Nccl {
    fn world(&self) -> &World {
        self.host.world()
    }

    fn attach(&mut self, device: &Device) -> Result<Vec<String>> {
        self.connect(device)
    }

    fn start_all_reduce(&mut self, buffer: Vec<f32>) -> Result<Pending> {
        self.host.start_all_reduce(buffer)
    }

    fn wait(&mut self, pending: Pending) -> Result<Vec<f32>> {
        self.host.wait(pending)
    }

    fn start_sum(&mut self, tensor: &Tensor) -> Result<Pending> {
        if self.link.is_none() || !tensor.device().is_cuda() {
            return self.host.start_sum(tensor);
        }
        self.start_into(tensor, tensor)
    }

    fn finish_sum(&mut self, pending: Pending, tensor: &Tensor) -> Result<()> {
        match (pending.0, &mut self.link) {
            (State::Queued(id), Some(link)) => link.finish(id),
            (state, _) => self.host.finish_sum(Pending(state), tensor),
        }
    }

    fn await_numbers(&mut self, numbers: &Readback) -> Result<()> {
        if self.link.is_none() {
            return self.host.await_numbers(numbers);
        }
        self.until("all-reduce", |_| Ok(numbers.is_there()?))?;
        self.link.as_mut().map_or(Ok(()), Link::count_waits)
    }

    fn waited(&mut self) -> Duration {
        self.link.as_mut().map_or(Duration::ZERO, Link::take_waited)
    }

    fn watch(&mut self, waiting: &mut Waiting) -> Result<()> {
        self.host.watch(waiting)
    }

    fn progress(&mut self) -> Result<()> {
        self.host.progress()
    }

    fn all_reduce_f64(&mut self, values: &mut [f64]) -> Result<()> {
        self.host.all_reduce_f64(values)
    }

    fn broadcast_bytes(&mut self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.host.broadcast_bytes(root, bytes)
    }

    fn broadcast_f32(&mut self, root: usize, values: &mut [f32]) -> Result<()> {
        self.host.broadcast_f32(root, values)
    }

    fn all_gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.host.all_gather_bytes(bytes)
    }

    fn barrier(&mut self) -> Result<()> {
        self.host.barrier()
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(link) = &self.link {
            link.finalize()?;
            self.until("disconnecting", Ok)?;
            self.link = None;
        }
        self.host.finish()
    }

    fn abort(&mut self, code: i32) -> ! {
        if let Some(link) = self.link.take() {
            link.abort(ABORT);
        }
        self.host.abort(code)
    }
}
