//! Activations by kernels.

use candle_core::Tensor;

use super::{Activation, OP};
use crate::Result;
use crate::cuda::{Call, alike, empty, tiles};
use crate::tensor::as_rows;

pub(super) fn forward(x: &Tensor, bias: Option<&Tensor>, kind: Activation) -> Result<Tensor> {
    let ((rows, d), dtype) = (as_rows(OP, "x", x)?, x.dtype());
    let y = empty(x.shape(), dtype, x)?;
    let name = format!("activation_forward_{}", alike(OP, &[x, bias.unwrap_or(x)])?);
    let call = Call::new(OP, OP, &name).tensor(x).maybe(bias, dtype).tensor(&y).u32(rows).u32(d).u32(number(kind));
    let (grid, threads) = tiles(rows, d, dtype);
    call.launch(grid, threads, 0)?;
    Ok(y)
}

pub(super) fn backward(grad: &Tensor, x: &Tensor, bias: Option<&Tensor>, kind: Activation) -> Result<Tensor> {
    let ((rows, d), dtype) = (as_rows(OP, "x", x)?, x.dtype());
    let dx = empty(x.shape(), dtype, x)?;
    let name = format!("activation_backward_{}", alike(OP, &[grad, x, bias.unwrap_or(x)])?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(x).maybe(bias, dtype).tensor(&dx);
    let (grid, threads) = tiles(rows, d, dtype);
    call.u32(rows).u32(d).u32(number(kind)).launch(grid, threads, 0)?;
    Ok(dx)
}

/// As the kernels number them.
fn number(kind: Activation) -> usize {
    match kind {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
    }
}
