//! SHA-256 of bytes on their way to or from a file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::manifest::FileRecord;
use super::{Error, Result};

/// A stream that counts and hashes what passes.
pub(super) struct Hashed<S> {
    stream: S,
    hash: Sha256,
    size: u64,
}

impl<S> Hashed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, hash: Sha256::new(), size: 0 }
    }

    pub(super) fn finish(self) -> (S, FileRecord) {
        (self.stream, FileRecord { size: self.size, sha256: hex(&self.hash.finalize()) })
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.stream.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

/// The SHA-256 of `bytes`, in hexadecimal as `sha256sum` prints it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Opens `path`, whose size must be that of `saved`, for reading.
pub(super) fn open(path: &Path, saved: &FileRecord) -> Result<Hashed<File>> {
    let read_error = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(read_error)?;
    let size = file.metadata().map_err(read_error)?.len();
    if size != saved.size {
        let problem = format!("it has {size} bytes, {} were saved", saved.size);
        return Err(Error::Damaged { path: path.into(), problem });
    }
    Ok(Hashed::new(file))
}

/// Reads what is left and errors unless the whole was what `saved` says.
pub(super) fn close(path: &Path, mut file: Hashed<File>, saved: &FileRecord) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).map_err(|source| Error::Read { path: path.into(), source })? > 0 {}
    let (_, found) = file.finish();
    if found == *saved {
        return Ok(());
    }
    Err(Error::Damaged { path: path.into(), problem: "its SHA-256 is not that of what was saved".into() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sha256_as_in_its_standard() {
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), want);
        let mut hashed = Hashed::new(Vec::new());
        hashed.write_all(b"a").unwrap();
        hashed.write_all(b"bc").unwrap();
        let (bytes, record) = hashed.finish();
        assert_eq!((bytes, record), (b"abc".to_vec(), FileRecord { size: 3, sha256: want.into() }));
    }
}
