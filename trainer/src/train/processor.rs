//! Records which processors a run was computed with, and tells whose results have the same bits.

use std::collections::BTreeSet;
use std::fmt;

use candle_core::Device;
use echat_kernels::simd::SimdLevel;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::dist::Collective;

/// Kinds of processors of a job's ranks: instruction sets such as `x86_64 avx512`, or names of GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorKinds(BTreeSet<String>);

impl ProcessorKinds {
    /// Gathers the kinds of all ranks. Every rank calls it with the device it computes on.
    pub fn gather(device: &Device, collective: &mut dyn Collective) -> Result<Self> {
        let kinds = collective.all_gather_bytes(kind(device)?.as_bytes())?;
        Ok(Self(kinds.iter().map(|kind| String::from_utf8_lossy(kind).into_owned()).collect()))
    }

    /// The line that a run prints when it goes on with these kinds after `before`, at `step`. `None`
    /// if they are the same, or if an old checkpoint does not say.
    pub fn change(&self, before: &Self, step: u64) -> Option<String> {
        if self == before || before.0.is_empty() {
            return None;
        }
        let same_bits = self.arithmetic().len() == 1 && self.arithmetic() == before.arithmetic();
        let result = match same_bits {
            true => "this changes no bit of the results",
            false => "results agree to rounding, not bit for bit",
        };
        Some(format!("resumed on another processor: {self}; before step {step} it was {before}: {result}"))
    }

    /// Kinds, with those in one that compute the same bits.
    fn arithmetic(&self) -> BTreeSet<&str> {
        let fused = |kind: &str| matches!(kind, "x86_64 avx512" | "x86_64 avx2");
        self.0.iter().map(|kind| if fused(kind) { "x86_64" } else { kind.as_str() }).collect()
    }
}

impl fmt::Display for ProcessorKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(String::as_str).collect::<Vec<_>>().join(" and "))
    }
}

fn kind(device: &Device) -> Result<String> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let properties = echat_kernels::cuda::properties(device).map_err(crate::autograd::Error::from)?;
        return Ok(properties.name);
    }
    let _ = device;
    Ok(format!("{} {}", std::env::consts::ARCH, SimdLevel::current().name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{Solo, World};

    fn kinds(names: &[&str]) -> ProcessorKinds {
        ProcessorKinds(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn change(now: &[&str], before: &[&str]) -> String {
        kinds(now).change(&kinds(before), 7).unwrap_or_default()
    }

    #[test]
    fn a_change_is_told_with_what_it_means_for_the_results() {
        assert_eq!(change(&["x86_64 avx2"], &["x86_64 avx2"]), "");
        assert_eq!(change(&["x86_64 avx2"], &[]), "");
        let text = "resumed on another processor: x86_64 avx2; before step 7 it was x86_64 avx512: \
                    this changes no bit of the results";
        assert_eq!(change(&["x86_64 avx2"], &["x86_64 avx512"]), text);
        assert!(change(&["x86_64 avx2", "x86_64 avx512"], &["x86_64 avx512"]).ends_with("no bit of the results"));
        let rounding = "agree to rounding, not bit for bit";
        let avx2_then = |now: &[&str]| change(now, &["x86_64 avx2"]);
        assert!(avx2_then(&["x86_64 portable"]).ends_with(rounding));
        assert!(avx2_then(&["aarch64 neon"]).ends_with(rounding));
        assert!(avx2_then(&["x86_64 avx2", "x86_64 portable"]).ends_with(rounding));
        // Which rank had which kind is not recorded.
        assert!(change(&["A", "B"], &["A", "B", "C"]).ends_with(rounding));
    }

    #[test]
    fn a_cpu_rank_names_its_instruction_set() {
        let mut solo = Solo::new(World::single("test"));
        let found = ProcessorKinds::gather(&Device::Cpu, &mut solo).map(|kinds| kinds.to_string()).ok();
        assert_eq!(found, Some(format!("{} {}", std::env::consts::ARCH, SimdLevel::current().name())));
    }
}
