//! NCCL's functions, out of a library that is opened when it is needed, each in a safe function.
//!
//! The communicator is a non-blocking one: a call only asks, and [`Comm::is_ready`] says when it has been done or what went wrong, so that
//! no call waits for a rank that is gone.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{DType, Tensor};
use echat_kernels::cuda;

use super::super::{Error, Result};

/// The names under which pip and clusters have it.
pub const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// 2.18.0: what non-blocking communicators need, without the faults of their first years.
const LEAST: c_int = 21_800;

const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// `NCCL_UNIQUE_ID_BYTES`.
pub const ID_BYTES: usize = 128;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; ID_BYTES]);

/// `ncclComm_t`.
type Handle = *mut c_void;

/// `ncclConfig_t` of 2.18. Newer libraries take as much of it as `size` says and go by `version`.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    /// Padding in 2.18, later `trafficClass`.
    traffic_class: c_int,
}

impl Config {
    /// What `NCCL_CONFIG_INITIALIZER` gives, but non-blocking.
    fn non_blocking() -> Self {
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: LEAST as c_uint,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            traffic_class: UNDEFINED,
        }
    }
}

macro_rules! functions {
    ($( $field:ident = $symbol:literal: fn($($arg:ty),*) -> $out:ty; )*) => {
        /// NCCL, opened.
        pub struct Library {
            version: c_int,
            $( $field: unsafe extern "C" fn($($arg),*) -> $out, )*
        }

        impl Library {
            /// Takes what is needed out of `library`, which is called `name`.
            fn resolve(library: &libloading::Library, name: &str) -> Result<Self> {
                let missing = |symbol: &str| {
                    let reason = format!("{name} has no function {symbol}: it is older than 2.18, or not NCCL");
                    Error::NcclLibrary { reason }
                };
                // SAFETY: these are the functions' types in nccl.h; the library is never closed.
                unsafe {
                    Ok(Self {
                        version: 0,
                        $( $field: *library.get($symbol).map_err(|_| missing($symbol))?, )*
                    })
                }
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> c_int;
    get_unique_id = "ncclGetUniqueId": fn(*mut Id) -> c_int;
    init = "ncclCommInitRankConfig": fn(*mut Handle, c_int, Id, c_int, *mut Config) -> c_int;
    get_async_error = "ncclCommGetAsyncError": fn(Handle, *mut c_int) -> c_int;
    all_reduce = "ncclAllReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int;
    finalize = "ncclCommFinalize": fn(Handle) -> c_int;
    abort = "ncclCommAbort": fn(Handle) -> c_int;
    error_string = "ncclGetErrorString": fn(c_int) -> *const c_char;
    last_error = "ncclGetLastError": fn(Handle) -> *const c_char;
}

impl Library {
    /// The first of `names` that there is. It stays open: NCCL has threads.
    pub fn open(names: &[&str]) -> Result<&'static Self> {
        let mut reasons = Vec::new();
        for name in names {
            // SAFETY: loading NCCL does nothing but set it up.
            match unsafe { libloading::Library::new(*name) } {
                Ok(library) => return Self::check(Box::leak(Box::new(library)), name),
                // The cause alone names the file, and what of it is missing.
                Err(e) => reasons.push(std::error::Error::source(&e).unwrap_or(&e).to_string()),
            }
        }
        let reason = format!(
            "NCCL is missing: neither among the system's libraries nor in LD_LIBRARY_PATH (pip: nvidia-nccl-cu13 or -cu12, of the driver's CUDA; \
             clusters: module load nccl): {}",
            reasons.join("; ")
        );
        Err(Error::NcclLibrary { reason })
    }

    fn check(library: &libloading::Library, name: &str) -> Result<&'static Self> {
        let mut functions = Self::resolve(library, name)?;
        let mut version = 0;
        // SAFETY: the pointer is to a live integer.
        let code = unsafe { (functions.get_version)(&mut version) };
        functions.checked("asking for the version", code)?;
        functions.version = version;
        if version < LEAST {
            let reason = format!("{name} is NCCL {}, and 2.18 or newer is needed", functions.version());
            return Err(Error::NcclLibrary { reason });
        }
        Ok(Box::leak(Box::new(functions)))
    }

    /// Its version, as people write it.
    pub fn version(&self) -> String {
        let version = self.version;
        // From 2.9 on there are two digits for the minor number.
        let thousands = if version < 10_000 { 1_000 } else { 10_000 };
        format!("{}.{}.{}", version / thousands, version % thousands / 100, version % 100)
    }

    /// The name of a new communicator, which one rank makes for all.
    pub fn unique_id(&self) -> Result<[u8; ID_BYTES]> {
        let mut id = Id([0; ID_BYTES]);
        // SAFETY: the pointer is to a live id.
        let code = unsafe { (self.get_unique_id)(&mut id) };
        self.checked("naming the communicator", code)?;
        Ok(id.0)
    }

    /// Begins to connect rank `rank` of `size` to the communicator `id`, on the GPU whose context this thread has.
    pub fn connect(&'static self, id: [u8; ID_BYTES], rank: usize, size: usize) -> Result<Comm> {
        let call = "connecting";
        let mut handle: Handle = std::ptr::null_mut();
        let mut config = Config::non_blocking();
        // SAFETY: both pointers are to live values; the configuration is laid out as `size` and `version` in it say, and copied.
        let code = unsafe { (self.init)(&mut handle, size as c_int, Id(id), rank as c_int, &mut config) };
        if handle.is_null() {
            self.checked(call, code)?;
            return Err(self.failed(call, code));
        }
        let comm = Comm { library: self, handle };
        comm.asked(call, code)?;
        Ok(comm)
    }

    fn checked(&self, call: &'static str, code: c_int) -> Result<()> {
        if code == SUCCESS { Ok(()) } else { Err(self.failed(call, code)) }
    }

    fn failed(&self, call: &'static str, code: c_int) -> Error {
        let text = |text: *const c_char| match text.is_null() {
            true => String::new(),
            // SAFETY: NCCL returns strings that end with a zero and live as long as it does.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned(),
        };
        // SAFETY: any code has a string; the last error is the process's, and no communicator is needed for it.
        let (what, why) = unsafe { (text((self.error_string)(code)), text((self.last_error)(std::ptr::null_mut()))) };
        let message = if why.is_empty() { what } else { format!("{what} ({why})") };
        Error::Nccl { call, message, missing: String::new() }
    }
}

/// The ranks' GPUs, connected. The process's end closes it: NCCL's own way of doing that is one more wait for others.
pub struct Comm {
    library: &'static Library,
    handle: Handle,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time; `Comm` is neither `Clone` nor `Sync`.
unsafe impl Send for Comm {}

impl Comm {
    /// The library's version.
    pub fn version(&self) -> String {
        self.library.version()
    }

    /// Whether what was asked last has been done; an error if it, or anything since, has failed.
    pub fn is_ready(&self, call: &'static str) -> Result<bool> {
        let mut state = SUCCESS;
        // SAFETY: the communicator is alive and the pointer is to a live integer.
        let code = unsafe { (self.library.get_async_error)(self.handle, &mut state) };
        self.library.checked(call, code)?;
        self.asked(call, state).map(|()| state == SUCCESS)
    }

    /// Puts the sum of `from` over all ranks, to be written to `to` (or the same tensor), on `stream`. Before it is ready it is not
    /// there, and nothing else may be asked. Both must live until the stream has passed it.
    pub fn all_reduce(&self, from: &Tensor, to: &Tensor, stream: &CudaStream) -> Result<()> {
        let call = "all-reduce";
        let (source, target) = (cuda::pointer(from)?, cuda::pointer(to)?);
        let count = from.elem_count();
        let placed = |t: &Tensor| {
            let device = t.device().as_cuda_device().map(|d| d.cuda_stream().context().ordinal());
            t.dtype() == DType::F32 && t.elem_count() == count && device.is_ok_and(|d| d == stream.context().ordinal())
        };
        if !placed(from) || !placed(to) {
            return Err(Error::Nccl {
                call,
                message: "not two f32 tensors of one size on this rank's GPU".into(),
                missing: String::new(),
            });
        }
        let (source, target) = (source as *const c_void, target as *mut c_void);
        // SAFETY: both hold `count` f32, contiguous, in the memory of the stream's GPU; `Link` keeps them until the sum is over.
        let code = unsafe {
            (self.library.all_reduce)(source, target, count, FLOAT32, SUM, self.handle, stream.cu_stream().cast())
        };
        self.asked(call, code)
    }

    /// Begins to end it, together with the other ranks.
    pub fn finalize(&self) -> Result<()> {
        // SAFETY: the communicator is alive.
        let code = unsafe { (self.library.finalize)(self.handle) };
        self.asked("disconnecting", code)
    }

    /// Ends what of it is running on the GPU, waiting `limit` for that at most.
    pub fn abort(self, limit: Duration) {
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // All of it moves here, not its pointer alone, which may not.
            let comm = self;
            // SAFETY: the communicator is alive, and nobody else has it any more.
            let code = unsafe { (comm.library.abort)(comm.handle) };
            let _ = done.send(code);
        });
        let _ = is_done.recv_timeout(limit);
    }

    fn asked(&self, call: &'static str, code: c_int) -> Result<()> {
        if code == IN_PROGRESS { Ok(()) } else { self.library.checked(call, code) }
    }
}
