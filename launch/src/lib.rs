//! Where a process stands among its peers.
//!
//! [`World`] says which rank of how many this process is and on which host, from what the launcher (Open MPI, MPICH,
//! Intel MPI, MVAPICH2, Slurm) left in the environment. This crate is the only reader of environment variables.

pub mod env;
mod world;

pub use world::World;

/// A launcher's variables that make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LaunchError {
    /// A variable that should be a number.
    #[error(
        "environment variable {name}={value:?}: expected {expected}; unset it or start echat through mpirun or srun"
    )]
    Malformed {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be, in words.
        expected: &'static str,
    },
    /// One variable of a launcher's set without another that must accompany it.
    #[error(
        "environment variable {found} is set but {missing} is not: start every rank through the same mpirun or srun"
    )]
    Missing {
        /// The variable seen.
        found: &'static str,
        /// The one that should be there too.
        missing: &'static str,
    },
    /// A rank that is not below the number of ranks.
    #[error("the launcher says {rank_name}={rank} of {size_name}={size}: a rank is less than the number of ranks")]
    Rank {
        /// The variable of the rank.
        rank_name: &'static str,
        /// The rank.
        rank: usize,
        /// The variable of the size.
        size_name: &'static str,
        /// The number of ranks.
        size: usize,
    },
}
