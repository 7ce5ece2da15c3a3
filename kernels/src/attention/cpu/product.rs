//! Products of small matrices held in cache, one register block of the result at a time.

use pulp::{Simd, WithSimd};

use crate::simd::{LANES, dispatch};

/// Rows of a register block. With two vectors of columns: 12 accumulators, 2 operands and a broadcast fill AVX2's 16
/// registers; AVX-512 has room for twice the rows.
const ROWS: usize = 6;

/// Which part of a product the causal mask leaves, for the row block `first..=last`. The number is the place of the
/// diagonal: key `j` of the tile is seen by its queries from `j + shift` on.
#[derive(Clone, Copy)]
pub enum Cut {
    /// All of it.
    None,
    /// Rows are keys, columns queries: only columns from the first query that sees any of the keys.
    Columns(isize),
    /// Rows are keys, summed over queries: only those that see any of the keys.
    DepthFrom(isize),
    /// Rows are queries, summed over keys: only those that any of the queries sees.
    DepthTo(isize),
}

impl Cut {
    /// The first column and the range of the sum for rows `first..=last`.
    #[inline(always)]
    fn of(self, first: usize, last: usize, n: usize, k: usize) -> (usize, usize, usize) {
        let clamp = |x: isize, max: usize| (x.max(0) as usize).min(max);
        match self {
            Self::None => (0, 0, k),
            Self::Columns(shift) => (clamp(first as isize + shift, n) / LANES * LANES, 0, k),
            Self::DepthFrom(shift) => (0, clamp(first as isize + shift, k), k),
            Self::DepthTo(shift) => (0, 0, clamp(last as isize - shift + 1, k)),
        }
    }
}

/// The product `a b` [m, n]: `a` is [m, k], or [k, m] where `T`; `b` is [k, n]; `lda` and `ldb` are their rows' strides.
/// `n` and `ldb` are multiples of [`LANES`].
pub struct Product<'a, const T: bool> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: &'a [f32],
    pub lda: usize,
    pub b: &'a [f32],
    pub ldb: usize,
    pub cut: Cut,
}

impl<const T: bool> Product<'_, T> {
    /// `c = a b`, the rows of `c` `ldc` apart. With `Cut::Columns` the columns cut off are left as they were.
    pub fn store(self, c: &mut [f32], ldc: usize) {
        dispatch(Into { product: self, c, ldc, add: false });
    }

    /// `c += a b`.
    pub fn add(self, c: &mut [f32], ldc: usize) {
        dispatch(Into { product: self, c, ldc, add: true });
    }
}

/// A product and where it goes.
struct Into<'a, const T: bool> {
    product: Product<'a, T>,
    c: &'a mut [f32],
    ldc: usize,
    add: bool,
}

impl<const T: bool> WithSimd for Into<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let m = self.product.m;
        let mut row = 0;
        while row + 2 * ROWS <= m && S::REGISTER_COUNT >= 32 {
            self.rows::<S, { 2 * ROWS }>(simd, row);
            row += 2 * ROWS;
        }
        while row < m {
            match m - row {
                1 => self.rows::<S, 1>(simd, row),
                2 => self.rows::<S, 2>(simd, row),
                3 => self.rows::<S, 3>(simd, row),
                4 => self.rows::<S, 4>(simd, row),
                5 => self.rows::<S, 5>(simd, row),
                _ => self.rows::<S, ROWS>(simd, row),
            }
            row += ROWS;
        }
    }
}

impl<const T: bool> Into<'_, T> {
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&mut self, simd: S, row: usize) {
        let (mut col, from, to) = self.product.cut.of(row, row + M - 1, self.product.n, self.product.k);
        while col + 2 * S::F32_LANES <= self.product.n {
            self.block::<S, M, 2>(simd, row, col, from, to);
            col += 2 * S::F32_LANES;
        }
        while col < self.product.n {
            self.block::<S, M, 1>(simd, row, col, from, to);
            col += S::F32_LANES;
        }
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "p runs along rows of b and either way through a")]
    fn block<S: Simd, const M: usize, const N: usize>(
        &mut self,
        simd: S,
        row: usize,
        col: usize,
        from: usize,
        to: usize,
    ) {
        let product = &self.product;
        let width = N * S::F32_LANES;
        let mut acc = [[simd.splat_f32s(0.0); N]; M];
        let mut a_rows: [&[f32]; M] = [&[]; M];
        if !T {
            for (i, a) in a_rows.iter_mut().enumerate() {
                *a = &product.a[(row + i) * product.lda..][..to];
            }
        }
        for p in from..to {
            let b = S::as_simd_f32s(&product.b[p * product.ldb + col..][..width]).0;
            let a_column = if T { &product.a[p * product.lda + row..][..M] } else { &[][..] };
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = simd.splat_f32s(if T { a_column[i] } else { a_rows[i][p] });
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc = simd.mul_add_e_f32s(a, *b, *acc);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            let c = S::as_mut_simd_f32s(&mut self.c[(row + i) * self.ldc + col..][..width]).0;
            for (c, acc) in c.iter_mut().zip(acc) {
                *c = if self.add { simd.add_f32s(*c, *acc) } else { *acc };
            }
        }
    }
}
