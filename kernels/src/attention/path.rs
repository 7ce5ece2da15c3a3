//! Which of a GPU's kernels attend, where it has a choice: for comparisons of them.

use std::cell::Cell;
use std::fmt;

use candle_core::Device;

/// Instructions that bf16 attention multiplies with on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `wgmma`: products of warpgroups, of compute capability 9.0 alone.
    Wgmma,
    /// `mma.sync`: products of warps.
    Mma,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wgmma => "wgmma",
            Self::Mma => "mma.sync",
        })
    }
}

thread_local! {
    static CHOSEN: Cell<Option<Path>> = const { Cell::new(None) };
}

/// Does `f` with this thread's attention by `path`, wherever the device and the operands allow that.
pub fn with_path<R>(path: Path, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Path>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    let _restore = Restore(CHOSEN.replace(Some(path)));
    f()
}

/// The paths there are on `device`, first that which is taken; none where no kernels run. Neither was measured yet: the older instruction is taken, which
/// every GPU has.
pub fn paths(device: &Device) -> &'static [Path] {
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    return match crate::cuda::capability(device) {
        Some((9, 0)) => &[Path::Mma, Path::Wgmma],
        Some(_) => &[Path::Mma],
        None => &[],
    };
    #[cfg(not(any(feature = "cuda", feature = "emulate")))]
    {
        let _ = device;
        &[]
    }
}

/// The path on `device` for heads that kernels for `wide` numbers take, with dropout or without.
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub(super) fn path(device: &Device, wide: usize, drops: bool) -> Path {
    let paths = paths(device);
    let chosen = CHOSEN.get().filter(|path| paths.contains(path)).or(paths.first().copied());
    // What wider heads need does not fit into a warpgroup's registers.
    let fits = wide <= if drops { 64 } else { 128 };
    chosen.filter(|&path| path == Path::Mma || fits).unwrap_or(Path::Mma)
}
