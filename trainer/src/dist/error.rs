//! What can go wrong between ranks.

/// A collective operation that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Several ranks, but no way to talk.
    #[error(
        "started as one of {size} ranks, but this echat was built without MPI: rebuild with `cargo build --features mpi`"
    )]
    WithoutMpi {
        /// The number of ranks.
        size: usize,
    },
    /// A gradient that cannot be read or written.
    #[error(transparent)]
    Kernel(#[from] echat_kernels::Error),
    /// GPUs are wanted of a program that knows none.
    #[error(
        "dist.device = \"cuda\", but this echat was built without GPUs: see docs/cuda.md, or set dist.device = \"cpu\""
    )]
    WithoutCuda,
    /// A GPU that cannot be used.
    #[error("{reason}; dist.device = \"cpu\" does without a GPU")]
    Gpu {
        /// Why.
        reason: String,
    },
    /// More ranks on a host than GPUs.
    #[error(
        "{host} has {ranks} ranks and {count} GPUs, and each rank needs its own: start {count} a host (mpirun --npernode {count}); \
         dist.collective = \"mpi\" lets ranks share one, slowly"
    )]
    TooFewGpus {
        /// Ranks on the host.
        ranks: usize,
        /// The host.
        host: String,
        /// Its GPUs.
        count: usize,
    },
    /// NCCL is wanted where there are no GPUs.
    #[error(
        "dist.collective = \"nccl\", but the ranks compute on the CPU: on GPUs (dist.device = \"cuda\") NCCL sums their gradients; else set \
         dist.collective = \"auto\""
    )]
    NcclOnCpu,
    /// NCCL is wanted of a program that knows no GPUs.
    #[error(
        "dist.collective = \"nccl\", but this echat was built without GPUs: see docs/cuda.md, or set dist.collective = \"auto\""
    )]
    NcclWithoutCuda,
    /// NCCL's library cannot be used.
    #[error("{reason}; dist.collective = \"mpi\" does without NCCL, slowly")]
    NcclLibrary {
        /// Why.
        reason: String,
    },
    /// Ranks that cannot sum by NCCL together.
    #[error("{0}")]
    NcclRanks(String),
    /// NCCL, or another rank's, failed.
    #[error("NCCL: {call}: {message}{missing}")]
    Nccl {
        /// What was done.
        call: &'static str,
        /// NCCL's words.
        message: String,
        /// Ranks that were asked and did not answer, in words, if there are any.
        missing: String,
    },
    /// The driver failed.
    #[error("the GPU failed: {0} (its kernel log, `dmesg`, may have an Xid line)")]
    Driver(String),
    /// A rank that does not exist.
    #[error("rank {root} does not exist: there are {size}")]
    Root {
        /// The rank asked for.
        root: usize,
        /// The number of ranks.
        size: usize,
    },
    /// A sum that was not started here.
    #[error("waited for a sum this collective did not start")]
    NotStarted,
    /// A call after `finish`.
    #[error("the job was left already")]
    Finished,
    /// The launcher and the MPI library disagree.
    #[error(
        "the launcher says rank {rank} of {size}, MPI says {mpi_rank} of {mpi_size}: \
         use the mpirun of the MPI that echat was built with"
    )]
    OtherMpi {
        /// From the environment.
        rank: usize,
        /// From the environment.
        size: usize,
        /// From MPI.
        mpi_rank: i32,
        /// From MPI.
        mpi_size: i32,
    },
    /// An MPI call failed.
    #[error("{call}: {message}")]
    Mpi {
        /// The call.
        call: &'static str,
        /// MPI's words.
        message: String,
    },
    /// Other ranks did not come.
    #[error("waited {seconds} s in {call} for {missing}: look at its host and log, or raise dist.timeout_seconds")]
    Timeout {
        /// What the others should have joined.
        call: &'static str,
        /// How long, in seconds.
        seconds: u64,
        /// The ranks, in words.
        missing: String,
    },
}

/// The result of a collective operation.
pub type Result<T> = std::result::Result<T, Error>;
