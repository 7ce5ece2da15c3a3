//! Memory maps of shards (and of weights), and what happens when such a file is truncated under a running job.
//!
//! Reading a map beyond the end its file has by now raises SIGBUS, which would end the process without a word. [`say_truncated`]
//! installs a handler that finds the map the address lies in, says which file it is of, and ends the process.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::ShardError;

/// A file mapped to be read.
pub(crate) struct Map {
    path: PathBuf,
    map: Mmap,
    entry: &'static Entry,
}

impl Map {
    /// Maps the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, ShardError> {
        let unreadable = |source| ShardError::Unreadable { path: path.into(), source };
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the map is read-only and lives as long as the bytes lent from it; shards are written under another
        // name and renamed when complete, so nobody changes one in place. If somebody truncates one all the same, reading on
        // raises SIGBUS, which ends the process (see `say_truncated`).
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let start = map.as_ptr() as usize;
        let entry = register(path, start..start + map.len());
        Ok(Self { path: path.into(), map, entry })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The header of a safetensors file, and where the data after it begin.
    pub(crate) fn header(&self) -> Result<(usize, Metadata), ShardError> {
        let (len, metadata) = SafeTensors::read_metadata(&self.map)
            .map_err(|e| ShardError::Truncated { path: self.path.clone(), reason: e.to_string() })?;
        Ok((size_of::<u64>() + len, metadata))
    }

    /// Has the system read these bytes soon. Only a hint: that it was not taken is no error.
    pub(crate) fn will_need(&self, bytes: Range<usize>) {
        let _ = self.map.advise_range(Advice::WillNeed, bytes.start, bytes.len());
    }

    /// Takes the pages read so far out of this process's memory; they stay in the page cache. A hint as well.
    pub(super) fn release(&self) {
        // SAFETY: the map is of a file and read-only: its pages come back with the same bytes when they are read again.
        #[allow(unsafe_code)]
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Before it is unmapped and its addresses may be another's.
        self.entry.active.store(false, Ordering::Release);
    }
}

/// A map there is or was. Entries are appended and never removed, so that the handler reads them without a lock.
struct Entry {
    addresses: Range<usize>,
    active: AtomicBool,
    /// What to say, with the line's end.
    message: String,
    next: OnceLock<&'static Entry>,
}

static FIRST: OnceLock<&'static Entry> = OnceLock::new();
/// Only for those who append.
static LAST: Mutex<Option<&'static Entry>> = Mutex::new(None);

fn register(path: &Path, addresses: Range<usize>) -> &'static Entry {
    let path = path.display().to_string().replace('\n', " ");
    let entry: &Entry = Box::leak(Box::new(Entry {
        addresses,
        active: AtomicBool::new(true),
        message: format!("{path}: truncated while in use; restore it and resume\n"),
        next: OnceLock::new(),
    }));
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    // Set once, under the lock.
    let _ = last.map_or(&FIRST, |last| &last.next).set(entry);
    *last = Some(entry);
    entry
}

/// The map there is at `address`.
fn find(address: usize) -> Option<&'static Entry> {
    let entries = std::iter::successors(FIRST.get(), |entry| entry.next.get());
    entries.copied().find(|entry| entry.active.load(Ordering::Acquire) && entry.addresses.contains(&address))
}

/// What the line begins with.
static PREFIX: OnceLock<String> = OnceLock::new();

/// From now on, reading a shard that was truncated meanwhile ends the process with exit code 1 and the line
/// `{prefix}PATH: truncated while in use; restore it and resume`. To be called once MPI runs, which has a handler of its own; later
/// calls change nothing.
pub fn say_truncated(prefix: &str) -> io::Result<()> {
    if PREFIX.set(prefix.to_owned()).is_err() {
        return Ok(());
    }
    // SAFETY: `action` is a plain C struct, for which zeros are a value, and the handler calls async-signal-safe functions alone.
    #[allow(unsafe_code)]
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid `info`, whose address is set for SIGBUS; `writev`, `_exit`, `signal` and `raise` are
    // async-signal-safe, and the registry is read through atomics without allocating or locking.
    #[allow(unsafe_code)]
    unsafe {
        let Some(entry) = find((*info).si_addr() as usize) else {
            // Not ours: as if there were no handler. What raised it raises it again, or this does once we return.
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
            return;
        };
        let parts = [PREFIX.get().map_or("", String::as_str), entry.message.as_str()]
            .map(|text| libc::iovec { iov_base: text.as_ptr() as *mut libc::c_void, iov_len: text.len() });
        libc::writev(libc::STDERR_FILENO, parts.as_ptr(), parts.len() as libc::c_int);
        libc::_exit(1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_while_its_map_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let maps: Vec<Map> = (0..50)
            .map(|i| {
                let path = dir.path().join(format!("{i}\n.bin"));
                std::fs::write(&path, vec![1; 10_000]).unwrap();
                Map::open(&path).unwrap()
            })
            .collect();
        let said = |address: usize| find(address).map(|entry| entry.message.as_str());
        let places: Vec<usize> = maps.iter().map(|map| map.as_ptr() as usize).collect();
        for (i, &place) in places.iter().enumerate() {
            let message = said(place + 9_999).unwrap();
            assert!(
                message.ends_with(&format!("/{i} .bin: truncated while in use; restore it and resume\n")),
                "{message}"
            );
            assert_eq!(message.matches('\n').count(), 1);
        }
        assert_eq!(said(places.as_ptr() as usize), None);
        let before = places[7];
        // The pages may be another map's by the time it is looked for, but not this one's.
        drop(maps);
        assert!(said(before).is_none_or(|message| !message.contains(dir.path().to_str().unwrap())));
    }
}
