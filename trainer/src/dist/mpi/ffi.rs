//! The MPI calls, each in a safe function: a transfer owns its buffers until it has completed.
//!
//! rsmpi's request scopes borrow the buffers, which an all-reduce that outlives the function that started it cannot do.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{MaybeUninit, forget, take};

use mpi::Threading;
use mpi::datatype::Equivalence;
use mpi::ffi;
use mpi::raw::AsRaw;

use super::super::{Error, Result};

/// The most elements handed to one MPI call, whose counts are C `int`s; longer buffers go in several calls.
pub const MAX_COUNT: usize = 1 << 24;

/// All processes of the job, connected.
pub struct Comm(ffi::MPI_Comm);

// SAFETY: MPI was initialised with MPI_THREAD_SERIALIZED or more, so any thread may call it, one at a time; `Comm` is
// not `Clone` or `Sync`, and there is one per process.
unsafe impl Send for Comm {}

/// A communication under way, with the memory it reads and writes.
pub struct Transfer<T> {
    call: &'static str,
    send: Vec<T>,
    recv: Vec<T>,
    requests: Vec<ffi::MPI_Request>,
}

// SAFETY: as for `Comm`; requests are only handed to MPI through `&mut Transfer`.
unsafe impl<T: Send> Send for Transfer<T> {}

impl Comm {
    /// Initialises MPI, once per process. Failing calls return errors from then on.
    pub fn init() -> Result<Self> {
        let failed = |message: &str| Error::Mpi { call: "MPI_Init_thread", message: message.into() };
        let (universe, level) =
            mpi::initialize_with_threading(Threading::Serialized).ok_or_else(|| failed("MPI is in use already"))?;
        // Dropping it would call MPI_Finalize, which waits for ranks that may be stuck; `finalize` does it when all is well.
        forget(universe);
        if level < Threading::Serialized {
            return Err(failed("this MPI library was built without thread support"));
        }
        // SAFETY: MPI is initialised; both are constants of the library.
        unsafe {
            let comm = ffi::RSMPI_COMM_WORLD;
            check("MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN))?;
            Ok(Self(comm))
        }
    }

    /// This process and how many there are, according to MPI.
    pub fn rank_and_size(&self) -> Result<(c_int, c_int)> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: the communicator is valid and both pointers are to live integers.
        unsafe {
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(self.0, &mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(self.0, &mut size))?;
        }
        Ok((rank, size))
    }

    /// Starts the sum of `send` over all ranks; `recv` is memory for the result and may have any length.
    pub fn all_reduce<T: Equivalence + Clone + Default>(
        &mut self,
        send: Vec<T>,
        mut recv: Vec<T>,
    ) -> Result<Transfer<T>> {
        recv.resize(send.len(), T::default());
        let mut transfer = Transfer { call: "all-reduce", send, recv, requests: Vec::new() };
        let datatype = T::equivalent_datatype();
        for (from, to) in transfer.send.chunks(MAX_COUNT).zip(transfer.recv.chunks_mut(MAX_COUNT)) {
            // SAFETY: both chunks have `count` elements of `datatype`, do not overlap, and live in `transfer`, which frees
            // neither before the request has completed.
            let request = start("MPI_Iallreduce", |request| unsafe {
                let (from, to, count) = (from.as_ptr().cast::<c_void>(), to.as_mut_ptr().cast::<c_void>(), from.len());
                ffi::MPI_Iallreduce(from, to, count as c_int, datatype.as_raw(), ffi::RSMPI_SUM, self.0, request)
            })?;
            transfer.requests.push(request);
        }
        Ok(transfer)
    }

    /// Starts to copy `buffer` of rank `root` over those of all others, which have the same length.
    pub fn broadcast<T: Equivalence>(&mut self, root: usize, buffer: Vec<T>) -> Result<Transfer<T>> {
        let mut transfer = Transfer { call: "broadcast", send: Vec::new(), recv: buffer, requests: Vec::new() };
        let datatype = T::equivalent_datatype();
        for chunk in transfer.recv.chunks_mut(MAX_COUNT) {
            // SAFETY: the chunk has `count` elements of `datatype` and lives in `transfer` until the request has completed.
            let request = start("MPI_Ibcast", |request| unsafe {
                let (pointer, count) = (chunk.as_mut_ptr().cast::<c_void>(), chunk.len() as c_int);
                ffi::MPI_Ibcast(pointer, count, datatype.as_raw(), root as c_int, self.0, request)
            })?;
            transfer.requests.push(request);
        }
        Ok(transfer)
    }

    /// Starts to collect `block`, at most [`MAX_COUNT`] bytes and of one length on all `size` ranks, from each of them.
    pub fn all_gather(&mut self, block: Vec<u8>, size: usize) -> Result<Transfer<u8>> {
        let recv = vec![0; block.len() * size];
        let mut transfer = Transfer { call: "all-gather", send: block, recv, requests: Vec::new() };
        let (count, datatype) = (transfer.send.len() as c_int, u8::equivalent_datatype());
        // SAFETY: `recv` holds `size` blocks of `count` bytes; both live in `transfer` until the request has completed.
        let request = start("MPI_Iallgather", |request| unsafe {
            let from = transfer.send.as_ptr().cast::<c_void>();
            let to = transfer.recv.as_mut_ptr().cast::<c_void>();
            ffi::MPI_Iallgather(from, count, datatype.as_raw(), to, count, datatype.as_raw(), self.0, request)
        })?;
        transfer.requests.push(request);
        Ok(transfer)
    }

    /// Starts a barrier.
    pub fn barrier(&mut self) -> Result<Transfer<u8>> {
        // SAFETY: the communicator is valid.
        let request = start("MPI_Ibarrier", |request| unsafe { ffi::MPI_Ibarrier(self.0, request) })?;
        Ok(Transfer { call: "barrier", send: Vec::new(), recv: Vec::new(), requests: vec![request] })
    }

    /// Starts an empty message to rank `to`.
    pub fn signal(&mut self, to: usize, tag: c_int) -> Result<Transfer<u8>> {
        let datatype = u8::equivalent_datatype();
        // SAFETY: a message of no elements reads no memory; the pointer is dangling but not null.
        let request = start("MPI_Isend", |request| unsafe {
            let nothing = std::ptr::NonNull::<c_void>::dangling().as_ptr();
            ffi::MPI_Isend(nothing, 0, datatype.as_raw(), to as c_int, tag, self.0, request)
        })?;
        Ok(Transfer { call: "signal", send: Vec::new(), recv: Vec::new(), requests: vec![request] })
    }

    /// The rank that sent an empty message with `tag` that was not taken yet, if any.
    pub fn take_signal(&mut self, tag: c_int) -> Result<Option<usize>> {
        let mut found = 0;
        let mut status = MaybeUninit::<ffi::MPI_Status>::uninit();
        let datatype = u8::equivalent_datatype();
        // SAFETY: the communicator is valid; `status` is written when `found` is set, and read only then. The message
        // received has no elements, so nothing is written through the pointer.
        unsafe {
            let any = ffi::RSMPI_ANY_SOURCE;
            check("MPI_Iprobe", ffi::MPI_Iprobe(any, tag, self.0, &mut found, status.as_mut_ptr()))?;
            if found == 0 {
                return Ok(None);
            }
            let source = status.assume_init_ref().MPI_SOURCE;
            let nothing = std::ptr::NonNull::<c_void>::dangling().as_ptr();
            let ignore = ffi::RSMPI_STATUS_IGNORE;
            check("MPI_Recv", ffi::MPI_Recv(nothing, 0, datatype.as_raw(), source, tag, self.0, ignore))?;
            Ok(usize::try_from(source).ok())
        }
    }

    /// Leaves the job when all ranks do.
    pub fn finalize(&mut self) -> Result<()> {
        // SAFETY: MPI is initialised; the caller makes no call after this one.
        unsafe { check("MPI_Finalize", ffi::MPI_Finalize()) }
    }

    /// Ends all ranks.
    pub fn abort(&mut self, code: c_int) -> ! {
        // SAFETY: MPI_Abort is allowed at any time after initialisation.
        unsafe { ffi::MPI_Abort(self.0, code) };
        std::process::exit(code)
    }
}

impl<T> Transfer<T> {
    /// What it does, for messages.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// Moves it along; true once it has completed.
    pub fn test(&mut self) -> Result<bool> {
        let mut done = 0;
        // SAFETY: the requests are `len` live ones or nulls, owned by this transfer; MPI sets completed ones to null.
        unsafe {
            let (len, ignore) = (self.requests.len() as c_int, ffi::RSMPI_STATUSES_IGNORE);
            check("MPI_Testall", ffi::MPI_Testall(len, self.requests.as_mut_ptr(), &mut done, ignore))?;
        }
        if done != 0 {
            self.requests.clear();
        }
        Ok(self.requests.is_empty())
    }

    /// What was sent and what was received; `None` unless it has completed.
    pub fn into_buffers(mut self) -> Option<(Vec<T>, Vec<T>)> {
        self.requests.is_empty().then(|| (take(&mut self.send), take(&mut self.recv)))
    }
}

impl<T> Drop for Transfer<T> {
    fn drop(&mut self) {
        if !self.requests.is_empty() {
            // MPI may still read and write them: better leaked than freed.
            forget(take(&mut self.send));
            forget(take(&mut self.recv));
        }
    }
}

/// The request that `call` writes through the pointer it is given.
fn start(name: &'static str, call: impl FnOnce(*mut ffi::MPI_Request) -> c_int) -> Result<ffi::MPI_Request> {
    // SAFETY: a constant of the library.
    let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
    check(name, call(&mut request))?;
    Ok(request)
}

fn check(call: &'static str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0 as c_char; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut len = 0;
    // SAFETY: MPI writes at most MPI_MAX_ERROR_STRING characters and ends them with a zero.
    let message = unsafe {
        ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut len);
        CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
    };
    Err(Error::Mpi { call, message })
}
