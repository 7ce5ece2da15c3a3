//! The convolution on a GPU: windows are laid out as the rows of a matrix, some sequences at a time, and multiplied.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::{OP, Sizes};
use crate::cuda::{Call, Matrix, Product, empty, suffix, zeros};
use crate::{Result, SeqLens};

/// The most numbers of windows laid out at a time, unless one sequence has more.
const WINDOWS: usize = 1 << 27;
/// Rows of windows are this wide, or a multiple of it: cuBLAS reads 16 bytes at a time.
const ALIGNED: usize = 8;
/// Rows a block makes.
const ROWS: usize = 8;

/// A convolution of these sequences on this device.
pub(super) struct Conv<'a> {
    seq: &'a SeqLens,
    out: &'a SeqLens,
    sizes: Sizes,
    /// Of a row of windows.
    width: usize,
    offsets: [Tensor; 2],
}

impl<'a> Conv<'a> {
    pub(super) fn new(seq: &'a SeqLens, out: &'a SeqLens, sizes: Sizes, like: &Tensor) -> Result<Self> {
        let offsets = [seq.device(like)?, out.device(like)?];
        Ok(Self { seq, out, sizes, width: sizes.window().next_multiple_of(ALIGNED), offsets })
    }

    pub(super) fn forward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (c_out, width) = (self.sizes.c_out, self.width);
        let (y, w) = (empty((self.out.total(), c_out), x.dtype(), x)?, self.widened(w)?);
        for part in self.parts() {
            let rows = self.rows(&part);
            let windows = self.windows(x, &rows)?;
            let c = Matrix::rows(&y, c_out).at(rows.start * c_out);
            let (a, b) = (Matrix::rows(&windows, width), Matrix::rows(&w, width).t());
            product([rows.len(), c_out, width], a, b, c, false, bias)?;
        }
        Ok(y)
    }

    pub(super) fn backward_input(&self, grad: &Tensor, w: &Tensor) -> Result<Tensor> {
        let Sizes { c_in, c_out, kernel, stride } = self.sizes;
        let (width, dtype) = (self.width, grad.dtype());
        let (dx, w) = (empty((self.seq.total(), c_in), dtype, grad)?, self.widened(w)?);
        let name = format!("conv1d_fold_{}", suffix(OP, dtype)?);
        for part in self.parts() {
            let rows = self.rows(&part);
            // Not rounded before they are added up.
            let windows = empty((rows.len(), width), DType::F32, grad)?;
            let a = Matrix::rows(grad, c_out).at(rows.start * c_out);
            product(
                [rows.len(), width, c_out],
                a,
                Matrix::rows(&w, width),
                Matrix::rows(&windows, width),
                false,
                None,
            )?;
            let (first, last) = (self.seq.offsets()[part.start], self.seq.offsets()[part.end]);
            let [seq, out] = &self.offsets;
            let call = Call::new(OP, OP, &name).tensor(&windows).tensor(seq).tensor(out).tensor(&dx);
            let call = call.u32(self.seq.count()).u32(first).u32(last - first).u32(rows.start);
            let call = call.u32(c_in).u32(kernel).u32(stride).u32(width);
            call.launch([(last - first).div_ceil(ROWS), 1, 1], 32 * ROWS, 0)?;
        }
        Ok(dx)
    }

    pub(super) fn backward_weight(&self, grad: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (c_out, width, window) = (self.sizes.c_out, self.width, self.sizes.window());
        let dw = zeros((c_out, width), DType::F32, x)?;
        for part in self.parts() {
            let rows = self.rows(&part);
            if rows.is_empty() {
                continue;
            }
            let windows = self.windows(x, &rows)?;
            let a = Matrix::rows(grad, c_out).at(rows.start * c_out).t();
            product(
                [c_out, width, rows.len()],
                a,
                Matrix::rows(&windows, width),
                Matrix::rows(&dw, width),
                true,
                None,
            )?;
        }
        if width == window { Ok(dw) } else { resized(&dw, width, window) }
    }

    /// Runs of sequences whose windows are laid out together.
    fn parts(&self) -> Vec<Range<usize>> {
        let (mut parts, mut start) = (Vec::new(), 0);
        let offsets = self.out.offsets();
        for end in 1..=self.out.count() {
            let next = offsets[(end + 1).min(self.out.count())];
            if end == self.out.count() || (next - offsets[start]) * self.width > WINDOWS {
                parts.push(start..end);
                start = end;
            }
        }
        parts
    }

    fn rows(&self, part: &Range<usize>) -> Range<usize> {
        self.out.offsets()[part.start]..self.out.offsets()[part.end]
    }

    /// [rows, width], windows of `rows`.
    fn windows(&self, x: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
        let windows = empty((rows.len(), self.width), x.dtype(), x)?;
        let name = format!("conv1d_unfold_{}", suffix(OP, x.dtype())?);
        let [seq, out] = &self.offsets;
        let call = Call::new(OP, OP, &name).tensor(x).tensor(seq).tensor(out).tensor(&windows);
        let call = call.u32(self.seq.count()).u32(rows.start).u32(rows.len()).u32(self.sizes.c_in);
        let call = call.u32(self.sizes.stride).u32(self.sizes.window()).u32(self.width);
        call.launch([rows.len().div_ceil(ROWS), 1, 1], 32 * ROWS, 0)?;
        Ok(windows)
    }

    /// The weight in rows as wide as those of windows.
    fn widened(&self, w: &Tensor) -> Result<Tensor> {
        let window = self.sizes.window();
        if self.width == window { Ok(w.clone()) } else { resized(w, window, self.width) }
    }
}

fn resized(x: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    let rows = x.elem_count() / from;
    let y = empty((rows, to), x.dtype(), x)?;
    let name = format!("conv1d_widen_{}", suffix(OP, x.dtype())?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(&y).u32(rows).u32(from).u32(to);
    call.launch([(rows * to).div_ceil(256), 1, 1], 256, 0)?;
    Ok(y)
}

fn product(size: [usize; 3], a: Matrix, b: Matrix, c: Matrix, accumulate: bool, bias: Option<&Tensor>) -> Result<()> {
    Product { op: OP, size, batch: 1, a, b, c, accumulate, bias }.run()
}
