//! Pieces of a fixed size; the compiler vectorises the loops.

use rayon::prelude::*;

use crate::parallel::SERIAL_BELOW;

/// Elements a thread takes at a time.
const PIECE: usize = 1 << 16;

pub fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    if a.len() < SERIAL_BELOW || rayon::current_num_threads() == 1 {
        return a.iter().zip(b).map(|(x, y)| x + y).collect();
    }
    a.par_iter().zip(b).with_min_len(PIECE).map(|(x, y)| x + y).collect()
}

pub fn scale(x: &[f32], factor: f32) -> Vec<f32> {
    if x.len() < SERIAL_BELOW || rayon::current_num_threads() == 1 {
        return x.iter().map(|x| factor * x).collect();
    }
    x.par_iter().with_min_len(PIECE).map(|x| factor * x).collect()
}
