//! How many threads this process computes with.

use echat_launch::World;

use super::{Error, Result};

/// Starts the pool: `configured` threads, or what the environment says, or this rank's share of the machine's cores. Call it once,
/// before anything is computed.
pub fn set_threads(configured: usize, world: &World) -> Result<()> {
    let from_env = || echat_launch::env::threads().map_err(|e| Error::Setting(e.to_string()));
    let count = match configured {
        0 => from_env()?.unwrap_or_else(|| world.default_threads()),
        count => count,
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .build_global()
        .map_err(|e| Error::Setting(format!("cannot start {count} threads: {e}")))
}

/// The threads of the pool.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
