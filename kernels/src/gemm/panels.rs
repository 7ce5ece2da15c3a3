//! Copies of operands in the order the inner kernel walks them.

use pulp::{Simd, WithSimd};

use super::buffer::Buffer;
use super::{BLOCK, View};
use crate::parallel;
use crate::simd::dispatch;

/// A job of packing is this many panels of a block.
const PANELS_AT_ONCE: usize = 16;

/// A `k x n` matrix cut into blocks of [`BLOCK`] rows, each block into panels of `columns` columns, each panel row after
/// row, zero beyond n.
pub struct Panels {
    memory: Buffer,
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Columns of a panel.
    pub columns: usize,
}

impl Panels {
    /// Room for a matrix in panels of `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self { memory: Buffer::take(), k: 0, n: 0, columns }
    }

    /// Packs the `k x n` matrix `from` in place of the last one.
    pub fn fill(&mut self, from: View, k: usize, n: usize) {
        let columns = self.columns;
        (self.k, self.n) = (k, n);
        let width = n.next_multiple_of(columns);
        let mut jobs = Vec::new();
        for (i, block) in self.memory.resize(k * width).chunks_mut(BLOCK * width.max(1)).enumerate() {
            let depth = block.len() / width;
            for (j, into) in block.chunks_mut(depth * columns * PANELS_AT_ONCE).enumerate() {
                jobs.push((i * BLOCK, depth, j * columns * PANELS_AT_ONCE, into));
            }
        }
        parallel::for_each(jobs, k * width, |_, (row, depth, column, into)| {
            let (from, width) = (from.at(row, column), (n - column).min(columns * PANELS_AT_ONCE));
            dispatch(Strips { from, depth, width, columns, into });
        });
    }

    /// The panels from the `j`-th on of the block of `depth` rows that begins at row `start`.
    pub fn from(&self, j: usize, start: usize, depth: usize) -> &[f32] {
        let width = self.n.next_multiple_of(self.columns);
        &self.memory.get()[start * width..(start + depth) * width][j * depth * self.columns..]
    }
}

/// The `depth x width` matrix `from`, cut into strips of `columns` columns: strip after strip, each row after row, zero
/// beyond `width`.
struct Strips<'a> {
    /// The matrix.
    from: View<'a>,
    /// Its rows.
    depth: usize,
    /// Its columns.
    width: usize,
    /// The columns of a strip.
    columns: usize,
    /// `depth * columns` numbers for each strip.
    into: &'a mut [f32],
}

impl WithSimd for Strips<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { from, depth, width, columns, into } = self;
        // Runs of a constant length are copied in registers.
        match columns {
            32 => strips::<32>(from, depth, width, into),
            16 => strips::<16>(from, depth, width, into),
            12 => strips::<12>(from, depth, width, into),
            8 => strips::<8>(from, depth, width, into),
            6 => strips::<6>(from, depth, width, into),
            _ => {
                for (i, into) in into.chunks_exact_mut(depth * columns).enumerate() {
                    ragged(from.at(0, i * columns), columns.min(width - i * columns), columns, into);
                }
            }
        }
    }
}

#[inline(always)]
fn strips<const N: usize>(from: View, depth: usize, width: usize, into: &mut [f32]) {
    let whole = width / N;
    let (into, rest) = into.split_at_mut(whole * N * depth);
    if from.col == 1 {
        runs::<N>(from, depth, whole * N, into);
    } else {
        for (i, into) in into.chunks_exact_mut(N * depth).enumerate() {
            let from = from.at(0, i * N);
            if from.row == 1 { transpose::<N>(from, depth, into) } else { ragged(from, N, N, into) }
        }
    }
    if !rest.is_empty() {
        ragged(from.at(0, whole * N), width - whole * N, N, rest);
    }
}

/// Whole strips of contiguous rows: of eight rows strip after strip, so that what is read and what is
/// written both are long stretches.
#[inline(always)]
fn runs<const N: usize>(from: View, depth: usize, width: usize, into: &mut [f32]) {
    const ROWS: usize = 8;
    let (into, _) = into.as_chunks_mut::<N>();
    let row = |p: usize| from.data[p * from.row..][..width].as_chunks::<N>().0;
    let whole = depth / ROWS * ROWS;
    for first in (0..whole).step_by(ROWS) {
        let rows: [&[[f32; N]]; ROWS] = std::array::from_fn(|p| row(first + p));
        for (i, strip) in into.chunks_exact_mut(depth).enumerate() {
            for (run, row) in strip[first..first + ROWS].iter_mut().zip(rows) {
                *run = row[i];
            }
        }
    }
    for p in whole..depth {
        for (strip, run) in into.chunks_exact_mut(depth).zip(row(p)) {
            strip[p] = *run;
        }
    }
}

/// One strip, any strides.
fn ragged(from: View, width: usize, columns: usize, into: &mut [f32]) {
    for (p, run) in into.chunks_exact_mut(columns).enumerate() {
        let (used, rest) = run.split_at_mut(width);
        for (j, x) in used.iter_mut().enumerate() {
            *x = from.data[p * from.row + j * from.col];
        }
        rest.fill(0.0);
    }
}

/// In blocks of eight by eight.
#[inline(always)]
fn transpose<const N: usize>(from: View, depth: usize, into: &mut [f32]) {
    let (into, _) = into.as_chunks_mut::<N>();
    let into = &mut into[..depth];
    let (blocks, rest) = into.as_chunks_mut::<8>();
    for first in (0..N).step_by(4) {
        let column = |j: usize| from.data[(first + j) * from.col..][..depth].as_chunks::<8>();
        let ((a, ra), (b, rb), (c, rc), (d, rd)) = (column(0), column(1), column(2), column(3));
        for ((((out, a), b), c), d) in blocks.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            for p in 0..8 {
                out[p][first] = a[p];
                out[p][first + 1] = b[p];
                out[p][first + 2] = c[p];
                out[p][first + 3] = d[p];
            }
        }
        for (p, run) in rest.iter_mut().enumerate() {
            run[first] = ra[p];
            run[first + 1] = rb[p];
            run[first + 2] = rc[p];
            run[first + 3] = rd[p];
        }
    }
}
