//! The inner kernel: a tile of C held in registers while k is walked.
//!
//! Every element of C is one chain of multiply-adds per block of k, in the order of k, whatever the
//! tile's place and size. So an element's bits depend on its own row of A, its own column of B and k
//! alone; not on the instruction set either, where that has fused multiply-adds.

use pulp::{Simd, WithSimd};

use crate::simd::dispatch;

/// Runs `$body` for `$i` in `0..$n`, `$n` at most 12, spelt out: an index into the sums that is not a constant would keep
/// them in memory.
macro_rules! unroll {
    ($i:ident < $n:expr, $body:block) => {
        unroll!($i < $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    ($i:ident < $n:expr, $body:block, $($index:literal)*) => {
        $(if $index < $n {
            let $i = $index;
            $body
        })*
    };
}

/// Vectors across a tile.
const VECTORS: usize = 2;

/// The size of a tile.
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
    /// The size for the calling thread's instruction set.
    pub fn current() -> Self {
        dispatch(Self { rows: 0, columns: 0 })
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
        let columns = VECTORS * S::F32_LANES;
        let (b, _) = S::as_simd_f32s(b).0.as_chunks::<VECTORS>();
        let b = &b[..depth];
        let mut partial = Vec::new();
        for first in (0..rows).step_by(R) {
            let count = R.min(rows - first);
            let mut acc = [[simd.splat_f32s(0.0); VECTORS]; R];
            match a {
                Rows::Plain { data, stride } => {
                    // Past the last row the last one is computed again, and dropped.
                    let mut rows = [data; R];
                    unroll!(i < R, { rows[i] = &data[(first + i.min(count - 1)) * stride..][..depth] });
                    for p in 0..depth {
                        step(simd, &mut acc, |i| rows[i][p], &b[p]);
                    }
                }
                Rows::Packed(data) => {
                    let (group, _) = data[first * depth..][..R * depth].as_chunks::<R>();
                    for (a, b) in group.iter().zip(b) {
                        step(simd, &mut acc, |i| a[i], b);
                    }
                }
            }
            let c = &mut c[first * stride + column..];
            if count == R && width == columns {
                store(simd, &acc, c, stride, accumulate);
            } else {
                partial.resize(R * columns, 0.0);
                store(simd, &acc, &mut partial, columns, false);
                for (row, sums) in c.chunks_mut(stride).zip(partial.chunks_exact(columns)).take(count) {
                    for (c, sum) in row[..width].iter_mut().zip(sums) {
                        *c = if accumulate { *c + sum } else { *sum };
                    }
                }
            }
        }
    }
}

/// Adds one k's products to the tile.
#[inline(always)]
fn step<S: Simd, const R: usize>(
    simd: S,
    acc: &mut [[S::f32s; VECTORS]; R],
    a: impl Fn(usize) -> f32,
    b: &[S::f32s; VECTORS],
) {
    unroll!(i < R, {
        let x = simd.splat_f32s(a(i));
        acc[i][0] = simd.mul_add_e_f32s(x, b[0], acc[i][0]);
        acc[i][1] = simd.mul_add_e_f32s(x, b[1], acc[i][1]);
    });
}

/// Writes a whole tile to C.
#[inline(always)]
fn store<S: Simd, const R: usize>(
    simd: S,
    acc: &[[S::f32s; VECTORS]; R],
    c: &mut [f32],
    stride: usize,
    accumulate: bool,
) {
    unroll!(i < R, {
        let (row, _) = S::as_mut_simd_f32s(&mut c[i * stride..][..VECTORS * S::F32_LANES]).0.as_chunks_mut::<VECTORS>();
        let row = &mut row[0];
        row[0] = if accumulate { simd.add_f32s(row[0], acc[i][0]) } else { acc[i][0] };
        row[1] = if accumulate { simd.add_f32s(row[1], acc[i][1]) } else { acc[i][1] };
    });
}
