//! Matrix products on the device: cuBLASLt on a GPU, our own in emulation.

use candle_core::{DType, Tensor};

use super::call::address;
use super::together;
use crate::{Error, Result};

/// A matrix somewhere in a tensor's elements, or `batch` of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    /// The tensor, contiguous.
    pub tensor: &'a Tensor,
    /// Where the first matrix begins, in elements.
    pub offset: usize,
    /// From stored row to stored row.
    pub stride: usize,
    /// From matrix to matrix.
    pub step: usize,
    /// Whether what is stored is the transpose.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The rows of `tensor`, whose last dimension is `columns`.
    pub(crate) fn rows(tensor: &'a Tensor, columns: usize) -> Self {
        Self { tensor, offset: 0, stride: columns, step: 0, transposed: false }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// The matrices that begin every `step` elements.
    pub(crate) fn every(self, step: usize) -> Self {
        Self { step, ..self }
    }

    /// The matrix that begins `offset` elements later.
    pub(crate) fn at(self, offset: usize) -> Self {
        Self { offset: self.offset + offset, ..self }
    }
}

/// `C = A B + bias`, or `C += A B`: A is m × k, B k × n, C m × n, `batch` of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    /// The op, for messages.
    pub op: &'static str,
    /// m, n and k.
    pub size: [usize; 3],
    /// How many products.
    pub batch: usize,
    /// The left operand.
    pub a: Matrix<'a>,
    /// The right operand, of the same dtype.
    pub b: Matrix<'a>,
    /// The result, not transposed, of that dtype or f32.
    pub c: Matrix<'a>,
    /// Whether to add to C.
    pub accumulate: bool,
    /// [n] of C's dtype, added to each row.
    pub bias: Option<&'a Tensor>,
}

impl Product<'_> {
    /// Puts it on the device's stream.
    pub(crate) fn run(self) -> Result<()> {
        self.check()?;
        let [m, n, k] = self.size;
        if m == 0 || n == 0 || self.batch == 0 {
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = self.c.tensor.device() {
            if k == 0 {
                return Err(Error::Value { op: self.op, message: "a product of no depth".into() });
            }
            return super::blaslt::run(device, &self);
        }
        let _ = k;
        #[cfg(feature = "emulate")]
        return super::emulated::product(&self);
        #[allow(unreachable_code)]
        Err(Error::Device { op: self.op, device: format!("{:?}", self.c.tensor.device()) })
    }

    fn check(&self) -> Result<()> {
        let failed = |message: String| Err(Error::Value { op: self.op, message });
        let (a, b, c) = (self.a.tensor, self.b.tensor, self.c.tensor);
        together(self.op, &[a, b, c])?;
        if a.dtype() != b.dtype() {
            return failed(format!("a product of {:?} and {:?}", a.dtype(), b.dtype()));
        }
        if c.dtype() != a.dtype() && c.dtype() != DType::F32 {
            return failed(format!("a product of {:?} into {:?}", a.dtype(), c.dtype()));
        }
        if let Some(bias) = self.bias.filter(|bias| bias.dtype() != c.dtype() || bias.elem_count() != self.size[1]) {
            return failed(format!("a bias {:?} of {:?} for {:?}", bias.shape(), bias.dtype(), c.dtype()));
        }
        let [m, n, k] = self.size;
        let fits = |x: &Matrix, rows: usize, columns: usize| {
            let (rows, columns) = if x.transposed { (columns, rows) } else { (rows, columns) };
            let last = x.offset + (self.batch.max(1) - 1) * x.step + rows.max(1).saturating_sub(1) * x.stride + columns;
            rows == 0 || columns == 0 || (x.stride >= columns && last <= x.tensor.elem_count())
        };
        match fits(&self.a, m, k) && fits(&self.b, k, n) && fits(&self.c, m, n) && !self.c.transposed {
            true => Ok(()),
            false => failed(format!("a product of {m} x {k} and {k} x {n} does not fit its operands")),
        }
    }
}

/// Where a matrix begins in memory.
#[allow(dead_code)]
pub(super) fn begin(op: &'static str, x: &Matrix) -> Result<u64> {
    let (_, base) = address(op, x.tensor)?;
    Ok(base + (x.offset * x.tensor.dtype().size_in_bytes()) as u64)
}
