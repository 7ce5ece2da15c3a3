//! Buffers that go round.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Buffers that several threads use by turns. The one put back first is lent first: what is still under way from it has had the longest time.
pub(crate) struct Ring<B> {
    buffers: Vec<Mutex<B>>,
    free: Mutex<VecDeque<usize>>,
    returned: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer that goes back when this ends, however it ends.
struct Lent<'a, B> {
    ring: &'a Ring<B>,
    number: usize,
}

impl<B> Drop for Lent<'_, B> {
    fn drop(&mut self) {
        lock(&self.ring.free).push_back(self.number);
        self.ring.returned.notify_one();
    }
}

impl<B> Ring<B> {
    pub(crate) fn new(buffers: impl IntoIterator<Item = B>) -> Self {
        let buffers: Vec<Mutex<B>> = buffers.into_iter().map(Mutex::new).collect();
        let free = Mutex::new((0..buffers.len()).collect());
        Self { buffers, free, returned: Condvar::new() }
    }

    /// Lends a buffer to `f`, as soon as one is free. `f` must not wait for another thread that wants one.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut B) -> R) -> R {
        let lent = Lent { ring: self, number: self.take() };
        f(&mut lock(&self.buffers[lent.number]))
    }

    /// Does `f` with every buffer, once it is not lent.
    #[cfg(feature = "emulate")]
    pub(crate) fn each<E>(&self, mut f: impl FnMut(&mut B) -> Result<(), E>) -> Result<(), E> {
        self.buffers.iter().try_for_each(|buffer| f(&mut lock(buffer)))
    }

    fn take(&self) -> usize {
        let mut free = lock(&self.free);
        loop {
            match free.pop_front() {
                Some(number) => return number,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn more_threads_than_buffers_take_turns() {
        let (ring, lent, most) = (Ring::new([0u64; 3]), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        ring.with(|uses| {
                            most.fetch_max(lent.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            *uses += 1;
                            lent.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3);
        assert_eq!(ring.buffers.iter().map(|b| *lock(b)).sum::<u64>(), 4_000);
    }

    #[test]
    fn the_buffer_used_longest_ago_comes_first() {
        let ring = Ring::new([0, 1, 2]);
        let order: Vec<i32> = (0..6).map(|_| ring.with(|buffer| *buffer)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_panic_gives_its_buffer_back() {
        let ring = Ring::new([()]);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.with(|()| assert_eq!(1, 2))));
        assert!(panicked.is_err());
        assert_eq!(ring.with(|()| 3), 3);
    }
}
