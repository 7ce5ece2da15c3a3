//! The positional convolution on a GPU: each group's windows are laid out as the rows of a matrix, some rows at a time, and multiplied.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::{OP, Sizes};
use crate::cuda::{Call, Matrix, Product, empty, suffix, zeros};
use crate::{Error, Result, SeqLens};

/// The most numbers of windows laid out at a time, unless one row has more.
const WINDOWS: usize = 1 << 28;
/// Rows a block lays out, as in the kernel.
const ROWS: usize = 16;
/// Shared memory that a block may always have.
const SHARED: usize = 99 << 10;
const THREADS: usize = 256;

pub(super) fn forward(x: &Tensor, w: &Tensor, bias: &Tensor, seq: &SeqLens, s: Sizes) -> Result<Tensor> {
    let y = empty(x.shape(), x.dtype(), x)?;
    let name = format!("pos_conv_fill_{}", suffix(OP, x.dtype())?);
    let call = Call::new(OP, OP, &name).tensor(bias).tensor(&y).u32(seq.total()).u32(s.d);
    call.launch([y.elem_count().div_ceil(THREADS), 1, 1], THREADS, 0)?;
    correlate(x, w, &y, seq, s, s.kernel / 2, true)?;
    Ok(y)
}

pub(super) fn backward_input(grad: &Tensor, w: &Tensor, seq: &SeqLens, s: Sizes) -> Result<Tensor> {
    let (dx, flipped) = (empty(grad.shape(), grad.dtype(), grad)?, empty(w.shape(), w.dtype(), w)?);
    let name = format!("pos_conv_flip_{}", suffix(OP, w.dtype())?);
    let call = Call::new(OP, OP, &name).tensor(w).tensor(&flipped).u32(s.d).u32(s.width()).u32(s.kernel);
    call.launch([w.elem_count().div_ceil(THREADS), 1, 1], THREADS, 0)?;
    correlate(grad, &flipped, &dx, seq, s, s.kernel - 1 - s.kernel / 2, false)?;
    Ok(dx)
}

pub(super) fn backward_weight(grad: &Tensor, x: &Tensor, seq: &SeqLens, s: Sizes) -> Result<Tensor> {
    let (n, window) = (s.width(), s.width() * s.kernel);
    let dw = zeros((s.d, n, s.kernel), DType::F32, x)?;
    let unfold = Unfold::new(x, seq, s, s.kernel / 2)?;
    for rows in unfold.parts() {
        let windows = unfold.windows(&rows)?;
        let a = Matrix::rows(grad, s.d).at(rows.start * s.d).every(n).t();
        let b = Matrix::rows(&windows, window).every(rows.len() * window);
        let c = Matrix::rows(&dw, window).every(n * window);
        let size = [n, window, rows.len()];
        Product { op: OP, size, batch: s.groups, a, b, c, accumulate: true, bias: None }.run()?;
    }
    Ok(dw)
}

/// `y[t, g n + o] = sum over i, j of x[t + j - before, g n + i] w[g n + o, i, j]`, or added to y.
fn correlate(
    x: &Tensor,
    w: &Tensor,
    y: &Tensor,
    seq: &SeqLens,
    s: Sizes,
    before: usize,
    accumulate: bool,
) -> Result<()> {
    let (n, window) = (s.width(), s.width() * s.kernel);
    let unfold = Unfold::new(x, seq, s, before)?;
    for rows in unfold.parts() {
        let windows = unfold.windows(&rows)?;
        let a = Matrix::rows(&windows, window).every(rows.len() * window);
        let b = Matrix::rows(w, window).every(n * window).t();
        let c = Matrix::rows(y, s.d).at(rows.start * s.d).every(n);
        let size = [rows.len(), n, window];
        Product { op: OP, size, batch: s.groups, a, b, c, accumulate, bias: None }.run()?;
    }
    Ok(())
}

/// Lays out windows of x.
struct Unfold<'a> {
    x: &'a Tensor,
    seq: &'a SeqLens,
    offsets: Tensor,
    sizes: Sizes,
    before: usize,
}

impl<'a> Unfold<'a> {
    fn new(x: &'a Tensor, seq: &'a SeqLens, sizes: Sizes, before: usize) -> Result<Self> {
        Ok(Self { x, seq, offsets: seq.device(x)?, sizes, before })
    }

    fn parts(&self) -> Vec<Range<usize>> {
        let rows = (WINDOWS / (self.sizes.d * self.sizes.kernel).max(1)).max(1);
        let total = self.seq.total();
        (0..total).step_by(rows).map(|first| first..(first + rows).min(total)).collect()
    }

    /// [groups, rows, width * kernel].
    fn windows(&self, rows: &Range<usize>) -> Result<Tensor> {
        let (s, dtype) = (self.sizes, self.x.dtype());
        let windows = empty((s.groups, rows.len(), s.width() * s.kernel), dtype, self.x)?;
        let shared = (ROWS + s.kernel) * s.width() * dtype.size_in_bytes();
        if shared > SHARED {
            let message = format!("a kernel of {} with {} channels a group is too large", s.kernel, s.width());
            return Err(Error::Value { op: OP, message });
        }
        let name = format!("pos_conv_unfold_{}", suffix(OP, dtype)?);
        let call = Call::new(OP, OP, &name).tensor(self.x).tensor(&self.offsets).tensor(&windows);
        let call = call.u32(self.seq.count()).u32(rows.start).u32(rows.len()).u32(self.seq.total());
        let call = call.u32(s.d).u32(s.width()).u32(s.kernel).u32(self.before);
        call.launch([rows.len().div_ceil(ROWS), s.groups, 1], THREADS, shared)?;
        Ok(windows)
    }
}
