//! The inner kernel: a tile of C held in registers while k is walked.
//!
//! Every element of C is one chain of fused multiply-adds per block of k, in the order of k, whatever the tile's place
//! and the instruction set. So an element's bits depend on its own row of A, its own column of B and k alone.

use pulp::{Simd, WithSimd};

/// Vectors across a tile.
const VECTORS: usize = 2;

/// The size of a tile on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileSize {
    /// Rows of C.
    pub rows: usize,
    /// Columns of C.
    pub columns: usize,
}

/// As many rows as leave registers for a row of B and a broadcast element of A.
const fn tile_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 12 } else { 6 }
}

impl WithSimd for TileSize {
    type Output = Self;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self {
        Self { rows: tile_rows::<S>(), columns: VECTORS * S::F32_LANES }
    }
}

impl TileSize {
    /// The size for the instruction set found at run time.
    pub fn detect() -> Self {
        pulp::Arch::new().dispatch(Self { rows: 0, columns: 0 })
    }
}

/// Rows of A for one block of k.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// Row `i` is the contiguous `data[i * stride..][..depth]`; rows may overlap.
    Plain {
        /// Where row 0 begins.
        data: &'a [f32],
        /// From row to row.
        stride: usize,
    },
    /// Groups of `TileSize::rows` rows; each group holds, for each k, its rows' elements side by side.
    Packed(&'a [f32]),
}

/// One panel of B (`depth` rows of `TileSize::columns`) against all rows: columns `column..column + width` of C.
pub struct Panel<'a> {
    /// The rows of A.
    pub a: Rows<'a>,
    /// The panel, row after row; columns beyond `width` are zero.
    pub b: &'a [f32],
    /// The length of the block of k.
    pub depth: usize,
    /// C.
    pub c: &'a mut [f32],
    /// From row to row of C.
    pub stride: usize,
    /// The number of rows of A and C.
    pub rows: usize,
    /// The first column.
    pub column: usize,
    /// The number of columns, at most `TileSize::columns`.
    pub width: usize,
    /// Add to C rather than overwrite it.
    pub accumulate: bool,
}

impl WithSimd for Panel<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if tile_rows::<S>() == 12 { self.run::<S, 12>(simd) } else { self.run::<S, 6>(simd) }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn run<S: Simd, const R: usize>(self, simd: S) {
        let Self { a, b, depth, c, stride, rows, column, width, accumulate } = self;
        let (b, _) = S::as_simd_f32s(b).0.as_chunks::<VECTORS>();
        let b = &b[..depth];
        for first in (0..rows).step_by(R) {
            let count = R.min(rows - first);
            let acc = match a {
                Rows::Plain { data, stride } => {
                    // Past the last row the last one is computed again, and dropped.
                    let row = |i: usize| &data[(first + i.min(count - 1)) * stride..][..depth];
                    let rows: [&[f32]; R] = std::array::from_fn(row);
                    product::<S, R>(simd, depth, |p| std::array::from_fn(|i| rows[i][p]), b)
                }
                Rows::Packed(data) => {
                    let (group, _) = data[first * depth..][..R * depth].as_chunks::<R>();
                    product::<S, R>(simd, depth, |p| group[p], b)
                }
            };
            let c = &mut c[first * stride + column..];
            store::<S, R>(simd, &acc, c, stride, count, width, accumulate);
        }
    }
}

/// The tile's sums over k.
#[inline(always)]
fn product<S: Simd, const R: usize>(
    simd: S,
    depth: usize,
    a: impl Fn(usize) -> [f32; R],
    b: &[[S::f32s; VECTORS]],
) -> [[S::f32s; VECTORS]; R] {
    let mut acc = [[simd.splat_f32s(0.0); VECTORS]; R];
    for (p, b) in b.iter().enumerate().take(depth) {
        let a = a(p);
        for i in 0..R {
            let x = simd.splat_f32s(a[i]);
            for v in 0..VECTORS {
                acc[i][v] = simd.mul_add_f32s(x, b[v], acc[i][v]);
            }
        }
    }
    acc
}

#[inline(always)]
fn store<S: Simd, const R: usize>(
    simd: S,
    acc: &[[S::f32s; VECTORS]; R],
    c: &mut [f32],
    stride: usize,
    count: usize,
    width: usize,
    accumulate: bool,
) {
    for (i, sums) in acc.iter().enumerate() {
        if i >= count {
            break;
        }
        let row = &mut c[i * stride..][..width];
        for (v, &sum) in sums.iter().enumerate() {
            let from = (v * S::F32_LANES).min(width);
            let part = &mut row[from..width.min(from + S::F32_LANES)];
            let sum = if accumulate { simd.add_f32s(simd.partial_load_f32s(part), sum) } else { sum };
            simd.partial_store_f32s(part, sum);
        }
    }
}
