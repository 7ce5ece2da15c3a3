//! Which GPU a rank has, and whether those of all ranks go together.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::CudaStream;

use super::super::{Error, Result};

/// The GPU of a rank, as the others are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    pub host: String,
    pub uuid: String,
    /// The model.
    pub name: String,
    /// The rank's version of NCCL.
    pub nccl: String,
}

/// The stream on which `device` computes.
pub fn stream(device: &Device) -> Result<Arc<CudaStream>> {
    Ok(device.as_cuda_device().map_err(echat_kernels::Error::from)?.cuda_stream())
}

impl Gpu {
    /// That of a rank on `host`.
    pub fn of(device: &Device, host: &str, nccl: String) -> Result<Self> {
        let stream = stream(device)?;
        let failed = |e: candle_core::cuda_backend::cudarc::driver::DriverError| Error::Driver(e.to_string());
        let name = stream.context().name().map_err(failed)?;
        let uuid = stream.context().uuid().map_err(failed)?;
        let uuid = uuid.bytes.iter().map(|&byte| format!("{:02x}", byte as u8)).collect();
        Ok(Self { host: host.to_owned(), uuid, name, nccl })
    }

    pub fn to_line(&self) -> String {
        [&self.host, &self.uuid, &self.name, &self.nccl].map(|part| part.replace('\n', " ")).join("\n")
    }

    pub fn from_line(line: &str) -> Self {
        let mut parts = line.split('\n').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { host: next(), uuid: next(), name: next(), nccl: next() }
    }
}

/// Errors if two of `ranks` have one GPU, or not the same NCCL. Returns a warning where GPUs differ.
pub fn compare(ranks: &[Gpu]) -> Result<Option<String>> {
    let mut of: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (rank, gpu) in ranks.iter().enumerate() {
        if let Some(other) = of.insert((&gpu.host, &gpu.uuid), rank) {
            let (host, name) = (&gpu.host, &gpu.name);
            return Err(Error::NcclRanks(format!(
                "rank {other} and rank {rank} on {host} have the same GPU ({name}), and NCCL wants one for each: start fewer ranks there (mpirun --npernode), \
                 or show each rank its own (CUDA_VISIBLE_DEVICES); dist.collective = \"mpi\" lets ranks share one, slowly"
            )));
        }
    }
    let Some(first) = ranks.first() else { return Ok(None) };
    if let Some(rank) = ranks.iter().position(|gpu| gpu.nccl != first.nccl) {
        let gpu = &ranks[rank];
        return Err(Error::NcclRanks(format!(
            "rank 0 on {} has NCCL {}, rank {rank} on {} has {}: all ranks need the same",
            first.host, first.nccl, gpu.host, gpu.nccl
        )));
    }
    Ok(mixed(ranks))
}

/// Which hosts have which models, if there are several.
fn mixed(ranks: &[Gpu]) -> Option<String> {
    let mut hosts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for gpu in ranks {
        let known = hosts.entry(&gpu.name).or_default();
        if !known.contains(&gpu.host.as_str()) {
            known.push(&gpu.host);
        }
    }
    if hosts.len() < 2 {
        return None;
    }
    let named = |hosts: &[&str]| match hosts.len() {
        n if n > 8 => format!("{} and {} more", hosts[..8].join(", "), n - 8),
        _ => hosts.join(", "),
    };
    let models: Vec<String> = hosts.iter().map(|(model, hosts)| format!("{model} on {}", named(hosts))).collect();
    Some(format!(
        "warning: GPUs of different models, and each step takes as long as the slowest: {}",
        models.join("; ")
    ))
}
