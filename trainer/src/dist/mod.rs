//! Collective operations over the ranks of a job.
//!
//! [`Collective`] is what training needs from a message-passing library. [`connect`] gives the one that fits the world:
//! `solo` for one process (no MPI needed or touched), `mpi` for several (cargo feature `mpi`); once it is known what ranks compute
//! on, [`attach`] has gradients on GPUs summed there, by `nccl` (cargo feature `cuda`). Every rank calls the same operations in the same order;
//! sums come out bitwise equal on all ranks, and equal from run to run.
//!
//! [`run`] is the frame around a job: what fails on one rank ends all of them, with one line that says which and why.

mod device;
mod error;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "cuda")]
pub mod nccl;
mod solo;
mod waiting;

use std::fmt::Display;
use std::thread::sleep;
use std::time::Duration;

use candle_core::{Device, Tensor};
use echat_kernels::readback::Readback;
use echat_kernels::tensor;

pub use echat_launch::World;

use crate::config::{choice, section};
use crate::{one_line, say};
pub use device::{DeviceKind, device};
pub use error::{Error, Result};
pub use solo::Solo;
pub use waiting::Waiting;

choice! {
    /// How gradients are summed over ranks.
    pub enum CollectiveKind {
        /// By NCCL where ranks have GPUs, else by MPI.
        Auto = "auto",
        /// By MPI; gradients on GPUs go through the memory of their hosts.
        Mpi = "mpi",
        /// By NCCL: every rank needs a GPU of its own.
        Nccl = "nccl",
    }
}

section! {
    /// How ranks work together, and on what.
    pub struct DistConfig {
        /// Give up when other ranks have not joined a collective operation for this many seconds, naming them; 0 waits for
        /// ever. Make it longer than the longest thing one rank does alone, such as saving a checkpoint.
        pub timeout_seconds: u64 = 0,
        /// What ranks compute on.
        pub device: DeviceKind = DeviceKind::Auto,
        /// How gradients are summed.
        pub collective: CollectiveKind = CollectiveKind::Auto,
    }
}

impl DistConfig {
    fn timeout(&self) -> Option<Duration> {
        (self.timeout_seconds > 0).then(|| Duration::from_secs(self.timeout_seconds))
    }
}

/// What ranks do together. Every rank calls the same operations with the same lengths in the same order.
pub trait Collective: Send {
    /// Which rank of how many this is, and where.
    fn world(&self) -> &World;

    /// Starts to sum `buffer` (f32 `[n]`) over all ranks and returns at once; several may be under way.
    fn start_all_reduce(&mut self, buffer: Vec<f32>) -> Result<Pending>;

    /// Waits for a sum and returns it, in a buffer of the same length.
    fn wait(&mut self, pending: Pending) -> Result<Vec<f32>>;

    /// From now on sums tensors that are on `device`, a GPU of this rank's own, there, without the memory of the host. All ranks call
    /// it. Returns what is to be said of it. [`attach`] knows when.
    fn attach(&mut self, device: &Device) -> Result<Vec<String>> {
        let _ = device;
        Err(Error::NcclWithoutCuda)
    }

    /// [`Collective::start_all_reduce`] of the elements of `tensor`, f32 and contiguous, wherever it is: it must be left alone until
    /// [`Collective::finish_sum`] has replaced it by the sum. As given here it goes through the memory of the host.
    fn start_sum(&mut self, tensor: &Tensor) -> Result<Pending> {
        self.start_all_reduce(tensor::to_host(tensor)?)
    }

    /// Replaces the elements of `tensor` by the sum that was started with it, for what uses the tensor next; need not wait.
    fn finish_sum(&mut self, pending: Pending, tensor: &Tensor) -> Result<()> {
        let sum = self.wait(pending)?;
        Ok(tensor::from_host(tensor, &sum)?)
    }

    /// Waits until `numbers` have come from this rank's device, while looking after the other ranks if the device waits for them. Where it does not,
    /// reading the numbers waits.
    fn await_numbers(&mut self, numbers: &Readback) -> Result<()> {
        let _ = numbers;
        Ok(())
    }

    /// The time for which [`Collective::finish_sum`] kept the device from other work, up to the last [`Collective::await_numbers`] and since
    /// this was last asked. It is not known where `finish_sum` itself waits: there a clock tells.
    fn waited(&mut self) -> Duration {
        Duration::ZERO
    }

    /// To be called again and again while waiting for others by other means than these operations: answers ranks that ask who is
    /// waiting, and errors, naming those that are not, once it has lasted too long.
    fn watch(&mut self, waiting: &mut Waiting) -> Result<()> {
        let _ = waiting;
        Ok(())
    }

    /// Moves sums under way along without waiting. Cheap: call it often during backward.
    fn progress(&mut self) -> Result<()>;

    /// Replaces `values` by their sums over all ranks, element by element.
    fn all_reduce_f64(&mut self, values: &mut [f64]) -> Result<()>;

    /// Replaces `bytes` by those of `root`, whatever their length.
    fn broadcast_bytes(&mut self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// Replaces `values` by those of `root`, of the same length.
    fn broadcast_f32(&mut self, root: usize, values: &mut [f32]) -> Result<()>;

    /// The `bytes` of every rank, in the order of ranks.
    fn all_gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Returns once every rank has called it.
    fn barrier(&mut self) -> Result<()>;

    /// Leaves the job: nothing may be called after it. [`run`] does this.
    fn finish(&mut self) -> Result<()>;

    /// Ends all ranks, this one with exit code `code`.
    fn abort(&mut self, code: i32) -> !;
}

/// A sum under way. Losing it loses the buffer, nothing else.
#[must_use = "wait for the sum"]
#[derive(Debug)]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    /// One process: the sum is the buffer.
    Done(Vec<f32>),
    /// The number by which the implementation knows it.
    #[cfg(feature = "mpi")]
    Started(u64),
    /// The same, of a sum on a GPU.
    #[cfg(feature = "cuda")]
    Queued(u64),
}

/// The collective for `world`: [`Solo`] for one process, MPI for several.
pub fn connect(world: World, config: &DistConfig) -> Result<Box<dyn Collective>> {
    let host = connect_hosts(world, config)?;
    #[cfg(feature = "cuda")]
    let host = Box::new(nccl::Nccl::new(host, config.timeout()));
    Ok(host)
}

fn connect_hosts(world: World, config: &DistConfig) -> Result<Box<dyn Collective>> {
    if world.size == 1 {
        return Ok(Box::new(Solo::new(world)));
    }
    #[cfg(feature = "mpi")]
    return Ok(Box::new(mpi::Mpi::connect(world, config.timeout())?));
    #[cfg(not(feature = "mpi"))]
    {
        let _ = config.timeout();
        Err(Error::WithoutMpi { size: world.size })
    }
}

/// Has gradients on `device` summed as `config` says: on GPUs there are several ranks of, or for which it is wanted, by NCCL. All ranks call it,
/// once, before the first sum. Returns what is to be said of it.
pub fn attach(collective: &mut dyn Collective, device: &Device, config: &DistConfig) -> Result<Vec<String>> {
    let by_nccl = match config.collective {
        CollectiveKind::Auto => device.is_cuda() && collective.world().size > 1,
        CollectiveKind::Mpi => false,
        CollectiveKind::Nccl if device.is_cuda() || cfg!(not(feature = "cuda")) => true,
        CollectiveKind::Nccl => return Err(Error::NcclOnCpu),
    };
    if by_nccl { collective.attach(device) } else { Ok(Vec::new()) }
}

/// Waits, before an error is printed, for lower ranks to print theirs: what all ranks find for themselves (a missing file, a
/// wrong setting) is said once, as the first to speak ends the others.
pub fn speak_in_turn(world: &World) {
    const TURN: Duration = Duration::from_millis(1500);
    sleep(TURN * world.rank.min(4) as u32);
}

/// Connects `world`, runs `body`, leaves. With several ranks an error prints `rank R on HOST: …` and ends all of them
/// (exit code 1); with one it is returned.
pub fn run<T, E>(
    world: World,
    config: &DistConfig,
    body: impl FnOnce(&mut dyn Collective) -> std::result::Result<T, E>,
) -> std::result::Result<T, E>
where
    E: Display + From<Error>,
{
    let mut collective = connect(world, config)?;
    let result = body(&mut *collective).and_then(|value| {
        collective.finish()?;
        Ok(value)
    });
    match result {
        Err(error) if collective.world().size > 1 => {
            let world = collective.world();
            speak_in_turn(world);
            say(&format!("rank {} on {}: {}", world.rank, world.host, said_once(&format!("{error:#}"))));
            collective.abort(1)
        }
        result => result,
    }
}

/// In one line, and without a last cause that the message before it ends with already.
fn said_once(error: &str) -> String {
    let line = one_line(error);
    let repeated = line.match_indices(": ").find(|(at, _)| line[..*at].ends_with(&line[at + 2..]));
    repeated.map_or(line.as_str(), |(at, _)| &line[..at]).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn several_ranks_without_the_feature_say_what_to_do() {
        let world = World { size: 3, ..World::single("node7") };
        let error = connect(world, &DistConfig::default()).err().unwrap().to_string();
        assert_eq!(
            error,
            "started as one of 3 ranks, but this echat was built without MPI: rebuild with `cargo build --features mpi`"
        );
    }

    #[test]
    fn a_cause_is_said_once_and_in_one_line() {
        assert_eq!(
            said_once("cannot read x: gone (os error 2): gone (os error 2)"),
            "cannot read x: gone (os error 2)"
        );
        assert_eq!(said_once("reading x: no\n  such file"), "reading x: no; such file");
    }

    #[test]
    fn one_process_returns_the_error_of_its_body() {
        let result: Result<()> = run(World::single("a"), &DistConfig::default(), |_| Err(Error::Finished));
        assert!(matches!(result, Err(Error::Finished)));
        let value: Result<usize> = run(World::single("a"), &DistConfig::default(), |c| Ok(c.world().size));
        assert_eq!(value.unwrap(), 1);
    }
}
