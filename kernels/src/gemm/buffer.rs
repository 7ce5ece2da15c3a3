//! Scratch memory for packed operands, kept by each thread from product to product.

use std::cell::Cell;

/// The longest buffer kept, in numbers.
const KEEP: usize = 1 << 20;
/// Where a buffer begins, in bytes: a vector register's alignment.
const ALIGN: usize = 64;

thread_local! {
    static SPARE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static OTHER: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A stretch of numbers that begins on a cache line; its contents are left over from its last use.
pub struct Buffer {
    memory: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// An empty one, over memory this thread has used before if there is any.
    pub fn take() -> Self {
        let memory = SPARE.take();
        let memory = if memory.is_empty() { OTHER.take() } else { memory };
        Self { memory, len: 0 }
    }

    fn start(&self) -> usize {
        // Anything at all is right; usually it is the distance to the next cache line.
        self.memory.as_ptr().align_offset(ALIGN).min(ALIGN / size_of::<f32>())
    }

    /// Makes it `len` numbers long.
    pub fn resize(&mut self, len: usize) -> &mut [f32] {
        let room = len + ALIGN / size_of::<f32>();
        if self.memory.len() < room {
            // The short buffer is freed before the long one is taken.
            self.memory = Vec::new();
            self.memory = vec![0.0; room];
        }
        self.len = len;
        let start = self.start();
        &mut self.memory[start..start + len]
    }

    /// The numbers.
    pub fn get(&self) -> &[f32] {
        let start = self.start();
        &self.memory[start..start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() <= KEEP {
            let memory = SPARE.replace(std::mem::take(&mut self.memory));
            OTHER.set(memory);
        }
    }
}
