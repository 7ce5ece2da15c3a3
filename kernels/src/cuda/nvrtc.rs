//! Kernels compiled at run time, when the program was built without nvcc. What was made is kept on disk.

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts, sys};
use sha2::{Digest, Sha256};

use super::{Source, sources};

static CACHE: OnceLock<PathBuf> = OnceLock::new();

/// Where compiled kernels are kept; without it they are compiled anew by every process. The first call counts.
pub fn set_kernel_cache(dir: PathBuf) {
    let _ = CACHE.set(dir);
}

/// PTX of `source` for the given compute capability.
pub(super) fn compile(source: &Source, major: i32, minor: i32) -> Result<Ptx, String> {
    // SAFETY: looks for the library, no more.
    #[allow(unsafe_code)]
    if !unsafe { sys::is_culib_present() } {
        return Err("this program was built without nvcc and libnvrtc is not here; install NVIDIA's NVRTC (pip: nvidia-cuda-nvrtc)".into());
    }
    let text = source.text.replace("#include \"../cuda/common.cuh\"", sources::HEADER);
    let suffix = if major == 9 { "a" } else { "" };
    let arch = format!("compute_{major}{minor}{suffix}");
    let cached = CACHE.get().map(|dir| {
        let key = Sha256::digest(format!("{arch}\n{text}"));
        let key: String = key.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        dir.join(format!("{}-{arch}-{key}.ptx", source.name))
    });
    if let Some(ptx) = cached.as_ref().and_then(|path| fs::read_to_string(path).ok()) {
        return Ok(Ptx::from_src(ptx));
    }
    let options = CompileOptions { options: vec![format!("--gpu-architecture={arch}"), "--std=c++17".into()], ..CompileOptions::default() };
    let ptx = catch_unwind(|| compile_ptx_with_opts(&text, options)).map_err(|_| "NVRTC failed".to_owned())?;
    let ptx = ptx.map_err(|e| format!("NVRTC: {e:?}"))?;
    if let Some(path) = cached {
        keep(&path, &ptx.to_src());
    }
    Ok(ptx)
}

/// Writes the file whole or not at all. That it cannot be kept is no reason to stop.
fn keep(path: &std::path::Path, ptx: &str) {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&temporary, ptx))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
}
