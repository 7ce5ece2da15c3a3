//! Files that are whole or not there, whatever interrupts their writing.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};

/// The file whose lock says that a process works in its directory.
const LOCK: &str = ".lock";
/// How long to wait for a process that may be about to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// That no other process works in a directory, as long as it lives. It ends with the process too, however that ends.
#[derive(Debug)]
pub struct Hold {
    path: PathBuf,
    /// Locked. None where this process may not write: there is nothing then to keep from others.
    file: Option<File>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Keeps other processes from working in `dir`; `None` if one does. A filesystem that has no locks keeps nobody away.
pub(crate) fn hold(dir: &Path) -> io::Result<Option<Hold>> {
    let (path, end) = (dir.join(LOCK), Instant::now() + PATIENCE);
    loop {
        let file = match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                return Ok(Some(Hold { path, file: None }));
            }
            opened => opened?,
        };
        if is_locked(&file, &path)? {
            return Ok(Some(Hold { path, file: Some(file) }));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        sleep(Duration::from_millis(50));
    }
}

/// Locks `file` if nobody else has, and if it is still the one at `path`: who had it locked may have removed it after it was opened here.
fn is_locked(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(_)) => Ok(true),
        Ok(()) => {
            let open = file.metadata()?;
            Ok(fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())))
        }
    }
}

/// Where the file at `path` lies until it is whole: `.NAME.tmp` beside it.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{}.tmp", name.trim_start_matches('.')))
}

/// Writes the file at `path`: it gets its name when it is complete and on disk. What a failure leaves half written is removed, as it only takes
/// up the space whose lack may be the reason.
pub(crate) fn write_whole(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        content(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().filter(|dir| *dir != Path::new("")).map_or(Ok(()), sync_dir)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Makes the names in `dir` last through a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether nothing is in `dir` but what a killed process left: files half written, and the one that is locked.
pub(crate) fn is_vacant(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !is_temporary(&entry) && entry.file_name() != LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what a killed process left half written in `dir`.
pub(crate) fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_temporary(&entry) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_temporary(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Writes `tensors` in the safetensors format, in the library's order: by falling alignment, then by name. The library's own file writer leaves
/// nameless files behind when it is killed, and makes files that only their owner can read.
///
/// Of `metadata` one key at most, if the bytes are to be the same each time: they are kept in a hash map.
pub(crate) fn write_safetensors<N: Into<String>, V: View>(
    out: &mut impl Write,
    tensors: impl IntoIterator<Item = (N, V)>,
    metadata: HashMap<String, String>,
) -> io::Result<()> {
    let mut tensors: Vec<(String, V)> = tensors.into_iter().map(|(name, view)| (name.into(), view)).collect();
    tensors.sort_by(|(a, x), (b, y)| y.dtype().cmp(&x.dtype()).then_with(|| a.cmp(b)));
    let mut end = 0;
    let info = |(name, view): &(String, V)| {
        let start = end;
        end += view.data_len();
        (name.clone(), TensorInfo { dtype: view.dtype(), shape: view.shape().to_vec(), data_offsets: (start, end) })
    };
    let infos = tensors.iter().map(info).collect();
    let header = Metadata::new(Some(metadata), infos).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.iter().try_for_each(|(_, view)| out.write_all(&view.data()))
}

/// A tensor of a file to be written.
pub(crate) struct Bytes<'a> {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub data: &'a [u8],
}

impl View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.data.into()
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn safetensors_files_are_the_librarys_and_readable_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..48).collect();
        let views = || {
            [
                ("b", Dtype::U8, 5),
                ("z", Dtype::F32, 8),
                ("a", Dtype::U64, 24),
                ("c", Dtype::F32, 48),
                ("e", Dtype::U8, 0),
            ]
            .map(|(name, dtype, len)| {
                let elements = len * 8 / dtype.bitsize();
                (name, TensorView::new(dtype, vec![elements], &bytes[..len]).unwrap())
            })
        };
        let metadata = || HashMap::from([("echat".to_owned(), "1".to_owned())]);
        let path = dir.path().join("x.safetensors");
        write_whole(&path, |out| write_safetensors(out, views(), metadata())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), safetensors::serialize(views(), Some(metadata())).unwrap());
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_whole(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write_whole(&path, |out| out.write_all(b"new").and(Err(io::ErrorKind::StorageFull.into())));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_held_once_handed_over_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let first = hold(dir.path()).unwrap().unwrap();
        assert!(is_vacant(dir.path()).unwrap());
        assert!(hold(dir.path()).unwrap().is_none());
        // Several wait: each has it once, none together with another.
        let holders = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let hold = hold(dir.path()).unwrap().unwrap();
                    assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    sleep(Duration::from_millis(20));
                    holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(hold);
                });
            }
            sleep(Duration::from_millis(100));
            drop(first);
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // Opened by two before one of them had it and removed it: the other has nothing.
        let path = dir.path().join(LOCK);
        let file = File::create(&path).unwrap();
        drop(hold(dir.path()).unwrap());
        assert!(!is_locked(&file, &path).unwrap());
        let file = File::create(&path).unwrap();
        assert!(is_locked(&file, &path).unwrap());
    }

    #[test]
    fn what_was_left_half_written_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(temporary(&dir.path().join(".x.json")), "half").unwrap();
        assert!(is_vacant(dir.path()).unwrap());
        fs::write(dir.path().join("notes.tmp"), "a user's own").unwrap();
        assert!(!is_vacant(dir.path()).unwrap());
        remove_temporaries(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.tmp"]);
    }
}
