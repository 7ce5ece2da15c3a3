//! Matrix products of strided f32 views, `C = A B` or `C += A B`.
//!
//! An element of C is summed in the order of k, in blocks of [`BLOCK`], whatever the other sizes: it does not depend on
//! the number of threads, on its position, or on which other rows and columns are computed beside it.

mod buffer;
mod micro;
mod panels;

use micro::{Panel, Rows, TileSize};
use panels::Panels;

use crate::parallel;
use crate::simd::dispatch;

/// k is walked in blocks of this many, so that a panel of B stays in the first-level cache.
const BLOCK: usize = 256;
/// The least work worth handing to another thread, in multiply-adds.
const PIECE: usize = 1 << 20;
/// The most rows of a piece, whole tiles of any size: enough to fetch each panel of B into the
/// first-level cache rarely.
const ROWS: usize = 96;
/// About as much of B is packed at a time, in elements, so that it stays in the second-level cache.
/// At most twice as much of A is, so that no copy grows with the matrices.
const PACKED_AT_ONCE: usize = 1 << 18;
/// The most columns of B packed at a time: with them one block of k fills [`PACKED_AT_ONCE`].
const WIDEST: usize = PACKED_AT_ONCE / BLOCK;

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

/// A right operand `[k, n]`, packed once for many products.
pub struct Packed(Panels);

impl Packed {
    /// Packs the `k x n` matrix `b`.
    ///
    /// # Panics
    /// If `b` is shorter than its sizes and strides say.
    pub fn new(b: View, k: usize, n: usize) -> Self {
        assert!(b.holds(k, n), "gemm: B is shorter than {k} x {n}");
        let mut panels = Panels::new(TileSize::current().columns);
        panels.fill(b, k, n);
        Self(panels)
    }
}

/// The left operand of a product.
#[derive(Clone, Copy)]
enum Left<'a> {
    /// Rows whose elements follow one another.
    Rows(View<'a>),
    /// The transpose, packed.
    Packed(&'a Panels),
}

/// `C = A B`, or `C += A B` if `accumulate`: A is `m x k`, B is `k x n`, and row i of C is `c[i * stride..][..n]`.
///
/// # Panics
/// If an operand is shorter than its sizes and strides say.
#[allow(clippy::too_many_arguments)]
pub fn gemm(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], stride: usize, accumulate: bool) {
    assert!(a.holds(m, k), "gemm: A is shorter than {m} x {k}");
    assert!(b.holds(k, n), "gemm: B is shorter than {k} x {n}");
    let tile = TileSize::current();
    let (mut left, mut right) = (Panels::new(tile.rows), Panels::new(tile.columns));
    let (packed_m, packed_n) = (m.next_multiple_of(tile.rows), n.next_multiple_of(tile.columns));
    let wider = if a.col == 1 { packed_n } else { packed_n.max(packed_m) };
    let depth = (PACKED_AT_ONCE / wider.clamp(1, WIDEST)).next_multiple_of(BLOCK);
    for column in (0..n).step_by(WIDEST) {
        let width = WIDEST.min(n - column);
        // At least once: a product of no depth is zeros.
        for start in (0..k.max(1)).step_by(depth) {
            right.fill(b.at(start, column), depth.min(k - start), width);
            let (a, accumulate) = (a.at(0, start), accumulate || start > 0);
            multiply(m, a, &right, &mut left, &mut c[column..], stride, accumulate);
        }
    }
}

/// [`gemm`] with B packed before.
///
/// # Panics
/// If an operand is shorter than its sizes and strides say.
pub fn product(m: usize, a: View, b: &Packed, c: &mut [f32], stride: usize, accumulate: bool) {
    assert!(a.holds(m, b.0.k), "gemm: A is shorter than {m} x {}", b.0.k);
    multiply(m, a, &b.0, &mut Panels::new(TileSize::current().rows), c, stride, accumulate);
}

/// A product with packed B. `left` is room for rows of A, which are packed unless their elements
/// follow one another.
fn multiply(m: usize, a: View, b: &Panels, left: &mut Panels, c: &mut [f32], stride: usize, accumulate: bool) {
    if a.col == 1 {
        return pieces(m, Left::Rows(a), b, c, stride, accumulate);
    }
    let rows = (2 * PACKED_AT_ONCE / b.k.max(1)).next_multiple_of(left.columns);
    for first in (0..m).step_by(rows) {
        let count = rows.min(m - first);
        left.fill(a.at(first, 0).t(), b.k, count);
        pieces(count, Left::Packed(left), b, &mut c[first * stride..], stride, accumulate);
    }
}

/// Cuts a product into pieces of rows, for threads to share.
fn pieces(m: usize, a: Left, b: &Panels, c: &mut [f32], stride: usize, accumulate: bool) {
    let Panels { k, n, .. } = *b;
    if m == 0 || n == 0 {
        return;
    }
    let end = (m - 1) * stride + n;
    assert!(stride >= n && end <= c.len(), "gemm: C is shorter than {m} x {n}");
    let tile = TileSize::current();
    assert!(b.columns == tile.columns, "gemm: B was packed for another instruction set");
    let tiles = m.div_ceil(tile.rows);
    let count = tiles.div_ceil(ROWS / tile.rows).min((m * n * k).div_ceil(PIECE)).max(1);
    // An even number, for the many machines with an even number of cores.
    let rows = tiles.div_ceil(count.next_multiple_of(2)) * tile.rows;
    let piece = |i: usize, c: &mut [f32]| piece(i, rows.min(m - i), a, b, c, stride, accumulate);
    if m * n * k < 2 * PIECE {
        c[..end].chunks_mut(rows * stride).enumerate().for_each(|(i, c)| piece(i * rows, c));
    } else {
        parallel::for_rows_with_work(&mut c[..end], stride, rows, m * n * k, piece);
    }
}

/// Rows `first..first + m` of a product, on one thread; `c` begins with the first of them.
fn piece(first: usize, m: usize, a: Left, b: &Panels, c: &mut [f32], stride: usize, accumulate: bool) {
    let Panels { k, n, columns, .. } = *b;
    if k == 0 && !accumulate {
        c.chunks_mut(stride).for_each(|row| row[..n].fill(0.0));
    }
    for start in (0..k).step_by(BLOCK) {
        let depth = BLOCK.min(k - start);
        let rows = match a {
            Left::Rows(a) => Rows::Plain { data: a.at(first, start).data, stride: a.row },
            Left::Packed(a) => Rows::Packed(a.from(first / a.columns, start, depth)),
        };
        for (j, column) in (0..n).step_by(columns).enumerate() {
            let b = &b.from(j, start, depth)[..depth * columns];
            let width = columns.min(n - column);
            let accumulate = accumulate || start > 0;
            dispatch(Panel { a: rows, b, depth, c, stride, rows: m, column, width, accumulate });
        }
    }
}
