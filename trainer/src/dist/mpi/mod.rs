//! Collectives over MPI.
//!
//! Sums are MPI's own non-blocking all-reduces. Open MPI picks their algorithm by the number of ranks and elements alone
//! (recursive doubling for short buffers, a ring for long ones), combines in a fixed order, and gives every rank the same
//! result, so sums repeat bitwise; a test holds it to that at 2 and 3 ranks. Vendor plug-ins that take over collectives
//! (`hcoll`, `ucc`) make no such promise: turn them off with `mpirun --mca coll ^hcoll,ucc` where sums must repeat.
//!
//! MPI makes progress only inside its calls, and waits by spinning. So `progress` is called during backward, and waiting
//! here gives its processor to whoever can use it: three ranks on two cores stay quick.

mod ffi;
mod watch;

use std::collections::BTreeMap;
use std::thread::{panicking, sleep, yield_now};
use std::time::{Duration, Instant};

use super::waiting::Waiting;
use super::{Collective, Error, Pending, Result, State, World};
use ffi::{Comm, MAX_COUNT, Transfer};
use watch::Watch;

/// How long a wait only yields its processor. A transfer moves in steps, so this covers most of them; what takes longer
/// is a rank that is busy, and then it is better to sleep.
const YIELD_FOR: Duration = Duration::from_millis(50);
const NAP: Duration = Duration::from_micros(50);

/// The collective of several processes.
pub struct Mpi {
    world: World,
    hosts: Vec<String>,
    comm: Comm,
    timeout: Option<Duration>,
    sums: BTreeMap<u64, Transfer<f32>>,
    started: u64,
    spare: Vec<Vec<f32>>,
    finished: bool,
}

impl Mpi {
    /// Connects to the other processes of `world`, and corrects its local ranks to what their hosts say.
    pub fn connect(world: World, timeout: Option<Duration>) -> Result<Self> {
        let comm = Comm::init()?;
        let (mpi_rank, mpi_size) = comm.rank_and_size()?;
        if (usize::try_from(mpi_rank), usize::try_from(mpi_size)) != (Ok(world.rank), Ok(world.size)) {
            return Err(Error::OtherMpi { rank: world.rank, size: world.size, mpi_rank, mpi_size });
        }
        let hosts = vec![String::from("its host"); world.size];
        let (sums, spare) = (BTreeMap::new(), Vec::new());
        let mut mpi = Self { world, hosts, comm, timeout, sums, started: 0, spare, finished: false };
        let names = mpi.all_gather_bytes(mpi.world.host.clone().as_bytes())?;
        mpi.hosts = names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        let here: Vec<usize> = (0..mpi.world.size).filter(|&r| mpi.hosts[r] == mpi.world.host).collect();
        mpi.world.local_size = here.len();
        mpi.world.local_rank = here.iter().position(|&r| r == mpi.world.rank).unwrap_or(0);
        Ok(mpi)
    }

    /// Waits for `transfer`, giving up the processor meanwhile.
    fn complete<T>(&mut self, mut transfer: Transfer<T>) -> Result<(Vec<T>, Vec<T>)> {
        let started = Instant::now();
        let mut waiting =
            Waiting::new(transfer.call(), "no rank in particular: all wait, but not for the same operation");
        while !transfer.test()? {
            self.watch(&mut waiting)?;
            if started.elapsed() < YIELD_FOR { yield_now() } else { sleep(NAP) }
        }
        transfer.into_buffers().ok_or(Error::NotStarted)
    }

    fn check_root(&self, root: usize) -> Result<()> {
        if root < self.world.size { Ok(()) } else { Err(Error::Root { root, size: self.world.size }) }
    }

    fn check_connected(&self) -> Result<()> {
        if self.finished { Err(Error::Finished) } else { Ok(()) }
    }
}

impl Collective for Mpi {
    fn world(&self) -> &World {
        &self.world
    }

    fn start_all_reduce(&mut self, buffer: Vec<f32>) -> Result<Pending> {
        self.check_connected()?;
        // The last buffer that was sent is free again; results go there.
        let spare = self.spare.pop().unwrap_or_default();
        let transfer = self.comm.all_reduce(buffer, spare)?;
        self.started += 1;
        self.sums.insert(self.started, transfer);
        Ok(Pending(State::Started(self.started)))
    }

    fn wait(&mut self, pending: Pending) -> Result<Vec<f32>> {
        let State::Started(id) = pending.0 else { return Err(Error::NotStarted) };
        let transfer = self.sums.remove(&id).ok_or(Error::NotStarted)?;
        let (sent, sum) = self.complete(transfer)?;
        self.spare.push(sent);
        Ok(sum)
    }

    fn watch(&mut self, waiting: &mut Waiting) -> Result<()> {
        match self.timeout {
            Some(timeout) => {
                let mut watch = Watch { timeout, rank: self.world.rank, hosts: &self.hosts, waiting };
                watch.look(&mut self.comm)
            }
            None => Ok(()),
        }
    }

    fn progress(&mut self) -> Result<()> {
        // Testing one request moves every transfer of the process along; the oldest is the likeliest to be over.
        match self.sums.values_mut().next() {
            Some(oldest) => oldest.test().map(|_| ()),
            None => Ok(()),
        }
    }

    fn all_reduce_f64(&mut self, values: &mut [f64]) -> Result<()> {
        self.check_connected()?;
        let transfer = self.comm.all_reduce(values.to_vec(), Vec::new())?;
        values.copy_from_slice(&self.complete(transfer)?.1);
        Ok(())
    }

    fn broadcast_bytes(&mut self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.check_root(root)?;
        self.check_connected()?;
        let length = self.comm.broadcast(root, vec![bytes.len() as u64])?;
        let length = self.complete(length)?.1[0] as usize;
        let mut buffer = std::mem::take(bytes);
        buffer.resize(length, 0);
        let transfer = self.comm.broadcast(root, buffer)?;
        *bytes = self.complete(transfer)?.1;
        Ok(())
    }

    fn broadcast_f32(&mut self, root: usize, values: &mut [f32]) -> Result<()> {
        self.check_root(root)?;
        self.check_connected()?;
        let transfer = self.comm.broadcast(root, values.to_vec())?;
        values.copy_from_slice(&self.complete(transfer)?.1);
        Ok(())
    }

    fn all_gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.check_connected()?;
        let size = self.world.size;
        let lengths = self.comm.all_gather((bytes.len() as u64).to_le_bytes().to_vec(), size)?;
        let lengths: Vec<usize> = (self.complete(lengths)?.1.chunks_exact(8))
            .map(|b| b.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte)))
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|&n| Vec::with_capacity(n)).collect();
        for start in (0..longest).step_by(MAX_COUNT) {
            let width = (longest - start).min(MAX_COUNT);
            let mut block = bytes.iter().copied().skip(start).take(width).collect::<Vec<u8>>();
            block.resize(width, 0);
            let transfer = self.comm.all_gather(block, size)?;
            let blocks = self.complete(transfer)?.1;
            for ((out, &length), block) in all.iter_mut().zip(&lengths).zip(blocks.chunks_exact(width)) {
                out.extend_from_slice(&block[..length.saturating_sub(start).min(width)]);
            }
        }
        Ok(all)
    }

    fn barrier(&mut self) -> Result<()> {
        self.check_connected()?;
        let transfer = self.comm.barrier()?;
        self.complete(transfer).map(|_| ())
    }

    fn finish(&mut self) -> Result<()> {
        self.check_connected()?;
        while let Some((_, transfer)) = self.sums.pop_first() {
            self.complete(transfer)?;
        }
        // MPI_Finalize waits too, but spinning and without an end.
        self.barrier()?;
        self.finished = true;
        self.comm.finalize()
    }

    fn abort(&mut self, code: i32) -> ! {
        if self.finished { std::process::exit(code) } else { self.comm.abort(code) }
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if panicking() && !self.finished {
            // The panic has printed what happened; the others would wait for this rank for ever.
            self.comm.abort(101);
        }
    }
}
