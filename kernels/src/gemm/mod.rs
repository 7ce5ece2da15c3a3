//! Matrix products of strided f32 views, `C = A B` or `C += A B`.
//!
//! An element of C is summed in the order of k, in blocks of [`BLOCK`], whatever the other sizes: it does not depend on
//! the number of threads, on its position, or on which other rows and columns are computed beside it.

mod micro;
mod pack;

use micro::{Panel, Rows, TileSize};

use crate::parallel;

/// k is walked in blocks of this many, so that a panel of B stays in the first-level cache.
const BLOCK: usize = 256;
/// The least work worth handing to another thread, in multiply-adds.
const PIECE: usize = 1 << 20;
/// Up to this many elements, B is packed once for all pieces; larger ones by each piece, block by block.
const SHARED: usize = 1 << 20;

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

/// A right operand `[k, n]` packed once for many products.
pub struct Packed {
    panels: Vec<f32>,
    k: usize,
    n: usize,
    columns: usize,
}

impl Packed {
    /// Packs the `k x n` matrix `b`.
    pub fn new(b: View, k: usize, n: usize) -> Self {
        assert!(b.holds(k, n), "gemm: B is shorter than {k} x {n}");
        let columns = TileSize::detect().columns;
        let mut panels = vec![0.0; k * n.next_multiple_of(columns)];
        // Panel j is k rows of `columns`: its blocks of k follow one another.
        parallel::for_rows(&mut panels, k * columns, 1, |j, out| {
            let width = columns.min(n - j * columns);
            pack::panel(b.at(0, j * columns), k, width, columns, out);
        });
        Self { panels, k, n, columns }
    }

    fn panel(&self, j: usize, block: std::ops::Range<usize>) -> &[f32] {
        &self.panels[j * self.k * self.columns..][block.start * self.columns..block.end * self.columns]
    }
}

#[derive(Clone, Copy)]
enum Right<'a> {
    Packed(&'a Packed),
    View(View<'a>),
}

/// `C = A B`, or `C += A B` if `accumulate`: A is `m x k`, B is `k x n`, and row i of C is `c[i * stride..][..n]`.
///
/// # Panics
/// If an operand is shorter than its sizes and strides say.
#[allow(clippy::too_many_arguments)]
pub fn gemm(m: usize, n: usize, k: usize, a: View, b: View, c: &mut [f32], stride: usize, accumulate: bool) {
    assert!(b.holds(k, n), "gemm: B is shorter than {k} x {n}");
    if b.col != 1 || k * n <= SHARED {
        packed(m, a, &Packed::new(b, k, n), c, stride, accumulate);
    } else {
        pieces(m, n, k, a, Right::View(b), c, stride, accumulate);
    }
}

/// [`gemm`] with B packed before.
///
/// # Panics
/// If an operand is shorter than its sizes and strides say.
pub fn packed(m: usize, a: View, b: &Packed, c: &mut [f32], stride: usize, accumulate: bool) {
    pieces(m, b.n, b.k, a, Right::Packed(b), c, stride, accumulate);
}

#[allow(clippy::too_many_arguments)]
fn pieces(m: usize, n: usize, k: usize, a: View, b: Right, c: &mut [f32], stride: usize, accumulate: bool) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.holds(m, k), "gemm: A is shorter than {m} x {k}");
    assert!(stride >= n && (m - 1) * stride + n <= c.len(), "gemm: C is shorter than {m} x {n}");
    let tile = TileSize::detect();
    let rows = PIECE.div_ceil(n * k.max(1)).clamp(4 * tile.rows, 16 * tile.rows).next_multiple_of(tile.rows);
    let end = (m - 1) * stride + n;
    let one = |i: usize, c: &mut [f32]| {
        let count = rows.min(m - i);
        serial(count, n, k, a.at(i, 0), b, c, stride, accumulate, tile);
    };
    if m * n * k < 2 * PIECE {
        one_by_one(&mut c[..end], rows * stride, rows, one);
    } else {
        parallel::for_rows(&mut c[..end], stride, rows, one);
    }
}

fn one_by_one(c: &mut [f32], piece: usize, rows: usize, f: impl Fn(usize, &mut [f32])) {
    for (i, c) in c.chunks_mut(piece).enumerate() {
        f(i * rows, c);
    }
}

#[allow(clippy::too_many_arguments)]
fn serial(
    m: usize,
    n: usize,
    k: usize,
    a: View,
    b: Right,
    c: &mut [f32],
    stride: usize,
    accumulate: bool,
    tile: TileSize,
) {
    if k == 0 && !accumulate {
        c.chunks_mut(stride).for_each(|row| row[..n].fill(0.0));
    }
    let arch = pulp::Arch::new();
    let mut packed_a = Vec::new();
    let mut packed_b = Vec::new();
    for start in (0..k).step_by(BLOCK) {
        let block = start..k.min(start + BLOCK);
        let depth = block.len();
        let a = a.at(0, start);
        let rows = if a.col == 1 {
            Rows::Plain { data: a.data, stride: a.row }
        } else {
            packed_a.resize(m.next_multiple_of(tile.rows) * depth, 0.0);
            pack::rows(a, m, depth, tile.rows, &mut packed_a);
            Rows::Packed(&packed_a)
        };
        for (j, column) in (0..n).step_by(tile.columns).enumerate() {
            let width = tile.columns.min(n - column);
            let panel = match b {
                Right::Packed(b) => b.panel(j, block.clone()),
                Right::View(b) => {
                    packed_b.resize(depth * tile.columns, 0.0);
                    pack::panel(b.at(start, column), depth, width, tile.columns, &mut packed_b);
                    &packed_b
                }
            };
            let accumulate = accumulate || start > 0;
            arch.dispatch(Panel { a: rows, b: panel, depth, c, stride, rows: m, column, width, accumulate });
        }
    }
}
