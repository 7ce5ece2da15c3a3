//! Places for temporary files.

use std::path::PathBuf;

use super::Error;

/// A directory that goes with this, and all in it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self, Error> {
        let dir = Self::place(name);
        std::fs::create_dir_all(&dir).map_err(|e| Error::Setup(format!("{}: {e}", dir.display())))?;
        Ok(Self(dir))
    }

    /// Where it is for this thread.
    pub(super) fn place(name: &str) -> PathBuf {
        let (process, thread) = (std::process::id(), std::thread::current().id());
        std::env::temp_dir().join(format!("echat-gpu-check-{process}-{thread:?}-{name}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
