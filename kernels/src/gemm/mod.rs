//! Matrix products of strided f32 views, `C = A B` or `C += A B`.
//!
//! An element of C is summed in the order of k, in blocks of [`BLOCK`], whatever the other sizes: it does not depend on
//! the number of threads, on its position, or on which other rows and columns are computed beside it.

mod buffer;
mod micro;
mod pack;

use buffer::Buffer;
use micro::{Panel, Rows, TileSize};
use pack::Strips;

use crate::parallel;

/// k is walked in blocks of this many, so that a panel of B stays in the first-level cache.
const BLOCK: usize = 256;
/// The least work worth handing to another thread, in multiply-adds.
const PIECE: usize = 1 << 20;
/// About as much of B is packed at a time, in elements, so that it stays in the second-level cache.
const PACKED_AT_ONCE: usize = 1 << 18;
/// A job of packing is this many panels of a block.
const PANELS_AT_ONCE: usize = 16;

/// A matrix whose element (i, j) is `data[i * row + j * col]`; rows may overlap (`row < col * columns`).
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From row to row.
    pub row: usize,
    /// From column to column.
    pub col: usize,
}

impl<'a> View<'a> {
    /// Rows one after another, `columns` long each.
    pub fn rows(data: &'a [f32], columns: usize) -> Self {
        Self { data, row: columns, col: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { data: self.data, row: self.col, col: self.row }
    }

    /// The view that begins at element (i, j).
    fn at(self, i: usize, j: usize) -> Self {
        Self { data: &self.data[(i * self.row + j * self.col).min(self.data.len())..], ..self }
    }

    /// Whether an `m x n` matrix fits.
    fn holds(self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.row + (n - 1) * self.col < self.data.len()
    }
}

/// A right operand `[k, n]`, packed once for many products: for each [`BLOCK`] of rows its panels of columns, each row
/// after row.
pub struct Packed {
    panels: Buffer,
    k: usize,
    n: usize,
    columns: usize,
}

impl Packed {
    /// Packs the `k x n` matrix `b`.
    ///
    /// # Panics
    /// If `b` is shorter than its sizes and strides say.
    pub fn new(b: View, k: usize, n: usize) -> Self {
        let mut packed = Self { panels: Buffer::take(), k: 0, n, columns: TileSize::detect().columns };
        packed.fill(b, k);
        packed
    }

    /// Packs another matrix of as many columns in place of this one.
    fn fill(&mut self, b: View, k: usize) {
        let Self { n, columns, .. } = *self;
        assert!(b.holds(k, n), "gemm: B is shorter than {k} x {n}");
        self.k = k;
        let width = n.next_multiple_of(columns);
        let mut jobs = Vec::new();
        for (i, block) in self.panels.resize(k * width).chunks_mut(BLOCK * width.max(1)).enumerate() {
            let depth = block.len() / width;
            for (j, into) in block.chunks_mut(depth * columns * PANELS_AT_ONCE).enumerate() {
                jobs.push((i * BLOCK, depth, j * columns * PANELS_AT_ONCE, into));
            }
        }
        parallel::for_each(jobs, k * width, |_, (row, depth, column, into)| {
            let (from, width) = (b.at(row, column), (n - column).min(columns * PANELS_AT_ONCE));
            pulp::Arch::new().dispatch(Strips { from, depth, width, columns, into });
        });
    }

    /// Panel `j` of the block that begins at row `start`.
    fn panel(&self, j: usize, start: usize, depth: usize) -> &[f32] {
        let from = start * self.n.next_multiple_of(self.columns) + j * depth * self.columns;
        &self.panels.get()[from..from + depth * self.columns]
    }
}

/// `C = A B`, or `C += A B` if `accumulate`: A is `m x k`, B is `k x n`, and row i of C is `c[i * stride..][..n]`.
///
/// # Panics
/// If an operand is shorter than its sizes and strides say.
#[allow(clippy::too_many_arguments)]
pub fn gemm(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], stride: usize, accumulate: bool) {
    let depth = (PACKED_AT_ONCE / n.max(1)).next_multiple_of(BLOCK).min(k);
    let mut right = Packed::new(b, depth, n);
    product(m, a, &right, c, stride, accumulate);
    for start in (depth..k).step_by(depth.max(1)) {
        right.fill(b.at(start, 0), depth.min(k - start));
        product(m, a.at(0, start), &right, c, stride, true);
    }
}

/// [`gemm`] with B packed before.
///
/// # Panics
/// If an operand is shorter than its sizes and strides say.
pub fn product(m: usize, a: View, b: &Packed, c: &mut [f32], stride: usize, accumulate: bool) {
    let Packed { k, n, .. } = *b;
    if m == 0 || n == 0 {
        return;
    }
    let end = (m - 1) * stride + n;
    assert!(a.holds(m, k), "gemm: A is shorter than {m} x {k}");
    assert!(stride >= n && end <= c.len(), "gemm: C is shorter than {m} x {n}");
    let tile = TileSize::detect();
    let rows = piece_rows(m, n * k, tile);
    let piece = |i: usize, c: &mut [f32]| piece(rows.min(m - i), a.at(i, 0), b, c, stride, accumulate, tile);
    if m * n * k < 2 * PIECE {
        c[..end].chunks_mut(rows * stride).enumerate().for_each(|(i, c)| piece(i * rows, c));
    } else {
        parallel::for_rows(&mut c[..end], stride, rows, piece);
    }
}

/// The rows of a piece of `m` rows of `work` multiply-adds each.
fn piece_rows(m: usize, work: usize, tile: TileSize) -> usize {
    let tiles = m.div_ceil(tile.rows);
    // Packed B beyond the second-level cache is fetched again for each piece: let there be fewer.
    let least = if work > PACKED_AT_ONCE { 12 } else { 4 };
    let pieces = tiles.div_ceil(least).min((m * work).div_ceil(PIECE)).max(1);
    // An even number, for the many machines with an even number of cores.
    tiles.div_ceil(pieces.next_multiple_of(2)) * tile.rows
}

/// Some rows of a product, on one thread.
fn piece(m: usize, a: View, b: &Packed, c: &mut [f32], stride: usize, accumulate: bool, tile: TileSize) {
    let Packed { k, n, columns, .. } = *b;
    if k == 0 && !accumulate {
        c.chunks_mut(stride).for_each(|row| row[..n].fill(0.0));
    }
    let arch = pulp::Arch::new();
    let mut packed_a = Buffer::take();
    for start in (0..k).step_by(BLOCK) {
        let depth = BLOCK.min(k - start);
        let a = a.at(0, start);
        let rows = if a.col == 1 {
            Rows::Plain { data: a.data, stride: a.row }
        } else {
            let into = packed_a.resize(m.next_multiple_of(tile.rows) * depth);
            arch.dispatch(Strips { from: a.t(), depth, width: m, columns: tile.rows, into });
            Rows::Packed(packed_a.get())
        };
        for (j, column) in (0..n).step_by(columns).enumerate() {
            let width = columns.min(n - column);
            let accumulate = accumulate || start > 0;
            let b = b.panel(j, start, depth);
            arch.dispatch(Panel { a: rows, b, depth, c, stride, rows: m, column, width, accumulate });
        }
    }
}
