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
