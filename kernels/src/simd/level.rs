//! The vector instructions that CPU ops are compiled for, chosen when the program runs.

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

use pulp::{Arch, WithSimd};

/// Environment variable that names the [`SimdLevel`] to compute with; unset or empty takes the
/// widest that the processor has.
pub const SIMD_VARIABLE: &str = "ECHAT_SIMD";

/// A set of vector instructions. All but [`SimdLevel::Portable`] compute the same bits: they round
/// `a * b + c` once, and no sum depends on how many lanes a vector has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdLevel {
    /// AVX-512 F, BW, CD, DQ and VL (x86-64-v4).
    Avx512,
    /// AVX2 and FMA (x86-64-v3).
    Avx2,
    /// NEON (aarch64).
    Neon,
    /// The instructions that the build targets; SSE2 on x86-64. Rounds products before it adds them.
    Portable,
}

/// An unusable value of [`SIMD_VARIABLE`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimdLevelError {
    /// It names no level.
    #[error("{SIMD_VARIABLE}: \"{value}\" is no instruction set: name one of this processor ({}), or unset it", list())]
    Unknown {
        /// The variable's value.
        value: String,
    },
    /// The processor lacks these instructions.
    #[error("{SIMD_VARIABLE}: this processor lacks {value}: name one that it has ({}), or unset it", list())]
    Missing {
        /// The variable's value.
        value: String,
    },
}

impl SimdLevel {
    const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// Levels of this processor, the widest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|level| level.arch().is_some())
    }

    /// The level of the calling thread: that of [`SimdLevel::pool`] or [`SimdLevel::configured`].
    ///
    /// # Panics
    /// If `ECHAT_SIMD` is unusable; a program calls [`SimdLevel::configured`] first and reports it.
    pub fn current() -> Self {
        match arch() {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(_) => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Arch::V3(_) => Self::Avx2,
            #[cfg(target_arch = "aarch64")]
            Arch::Neon(_) => Self::Neon,
            _ => Self::Portable,
        }
    }

    /// The level that `ECHAT_SIMD` asks for, or the widest available.
    pub fn configured() -> Result<Self, SimdLevelError> {
        let value = std::env::var_os(SIMD_VARIABLE).unwrap_or_default();
        Self::parse(&value.to_string_lossy().trim().to_ascii_lowercase())
    }

    fn parse(value: &str) -> Result<Self, SimdLevelError> {
        if value.is_empty() {
            return Ok(Self::available().next().unwrap_or(Self::Portable));
        }
        let level = Self::ALL.into_iter().find(|level| level.name() == value);
        let level = level.ok_or_else(|| SimdLevelError::Unknown { value: value.into() })?;
        match level.arch() {
            Some(_) => Ok(level),
            None => Err(SimdLevelError::Missing { value: value.into() }),
        }
    }

    /// A pool of `threads` threads that compute with this level, or `None` if the processor lacks it.
    pub fn pool(self, threads: usize) -> Option<rayon::ThreadPool> {
        let arch = self.arch()?;
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
        builder.start_handler(move |_| FORCED.set(Some(arch))).build().ok()
    }

    /// The value of `ECHAT_SIMD` that asks for this level.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    fn arch(self) -> Option<Arch> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::try_new().map(Arch::V4),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::try_new().map(Arch::V3),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().map(Arch::Neon),
            Self::Portable => Some(Arch::Scalar),
            #[allow(unreachable_patterns, reason = "every level of another architecture")]
            _ => None,
        }
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Portable => "portable instructions",
        })
    }
}

fn list() -> String {
    SimdLevel::available().map(SimdLevel::name).collect::<Vec<_>>().join(", ")
}

thread_local! {
    static FORCED: Cell<Option<Arch>> = const { Cell::new(None) };
}

#[inline]
fn arch() -> Arch {
    static CONFIGURED: OnceLock<Arch> = OnceLock::new();
    #[expect(clippy::panic, reason = "a program reports it before it computes anything")]
    let configured = || match SimdLevel::configured() {
        Ok(level) => level.arch().unwrap_or(Arch::Scalar),
        Err(error) => panic!("{error}"),
    };
    FORCED.get().unwrap_or_else(|| *CONFIGURED.get_or_init(configured))
}

/// Runs `op` compiled for the calling thread's [`SimdLevel`].
#[inline(always)]
pub fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    arch().dispatch(op)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_available_level_is_taken_by_its_name() {
        for level in SimdLevel::available() {
            assert_eq!(SimdLevel::parse(level.name()), Ok(level));
            assert_eq!(level.pool(2).unwrap().install(SimdLevel::current), level);
        }
        assert_eq!(SimdLevel::parse(""), Ok(SimdLevel::available().next().unwrap()));
    }

    #[test]
    fn what_the_processor_lacks_is_refused_with_what_it_has() {
        for level in SimdLevel::ALL.into_iter().filter(|level| level.arch().is_none()) {
            let error = SimdLevel::parse(level.name()).unwrap_err();
            assert_eq!(error, SimdLevelError::Missing { value: level.name().into() });
            assert!(level.pool(1).is_none());
        }
        let error = SimdLevel::parse("avx9").unwrap_err();
        assert_eq!(error, SimdLevelError::Unknown { value: "avx9".into() });
        assert!(error.to_string().contains("portable"), "{error}");
    }
}
