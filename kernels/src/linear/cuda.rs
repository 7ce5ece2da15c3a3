//! The dense layer on a GPU.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::cuda::{Matrix, Product, column_sum, empty};

pub(super) fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, [t, i, o]: [usize; 3]) -> Result<Tensor> {
    let y = empty((t, o), x.dtype(), x)?;
    product([t, o, i], Matrix::rows(x, i), Matrix::rows(w, i).t(), &y, bias)?;
    Ok(y)
}

pub(super) fn backward_input(grad: &Tensor, w: &Tensor, [t, i, o]: [usize; 3]) -> Result<Tensor> {
    let dx = empty((t, i), grad.dtype(), grad)?;
    product([t, i, o], Matrix::rows(grad, o), Matrix::rows(w, i), &dx, None)?;
    Ok(dx)
}

pub(super) fn backward_weight(grad: &Tensor, x: &Tensor, [t, i, o]: [usize; 3]) -> Result<Tensor> {
    if t == 0 {
        return Ok(Tensor::zeros((o, i), DType::F32, grad.device())?);
    }
    let dw = empty((o, i), DType::F32, grad)?;
    product([o, i, t], Matrix::rows(grad, o).t(), Matrix::rows(x, i), &dw, None)?;
    Ok(dw)
}

pub(super) fn backward_bias(grad: &Tensor) -> Result<Tensor> {
    column_sum(OP, grad)
}

fn product(size: [usize; 3], a: Matrix, b: Matrix, c: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let c = Matrix::rows(c, size[1]);
    Product { op: OP, size, batch: 1, a, b, c, accumulate: false, bias }.run()
}
