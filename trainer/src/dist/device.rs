//! What a rank computes on: a GPU of its own, or the CPU.

use candle_core::Device;
use echat_launch::World;

use super::{CollectiveKind, DistConfig, Error, Result};
use crate::config::choice;

choice! {
    /// What ranks compute on.
    pub enum DeviceKind {
        /// A GPU for each rank where this program was built for GPUs and the host has any; else the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// A GPU for each rank.
        Cuda = "cuda",
    }
}

/// The device of the rank `world` describes: GPU number `local_rank` of those of its host, or the only one it sees.
pub fn device(config: &DistConfig, world: &World) -> Result<Device> {
    match config.device {
        DeviceKind::Cpu => Ok(Device::Cpu),
        kind => gpu(config, world, kind == DeviceKind::Cuda),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(config: &DistConfig, _world: &World, asked: bool) -> Result<Device> {
    let _ = config.collective == CollectiveKind::Mpi;
    if asked { Err(Error::WithoutCuda) } else { Ok(Device::Cpu) }
}

#[cfg(feature = "cuda")]
fn gpu(config: &DistConfig, world: &World, asked: bool) -> Result<Device> {
    use echat_kernels::cuda;
    let failed = |e: echat_kernels::Error| Error::Gpu { reason: e.to_string() };
    let count = match cuda::count() {
        Ok(0) if !asked => return Ok(Device::Cpu),
        count => count.map_err(failed)?,
    };
    // Sums through the host may share a GPU: that is for tests. Where each sees one alone, a launcher may have given each its own; NCCL
    // compares.
    let shared = config.collective == CollectiveKind::Mpi || count == 1;
    if world.local_rank >= count && !shared && count > 0 {
        return Err(Error::TooFewGpus { ranks: world.local_size, host: world.host.clone(), count });
    }
    cuda::open(world.local_rank % count.max(1)).map_err(failed)
}
