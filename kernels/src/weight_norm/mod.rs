//! Weight normalisation (Salimans and Kingma 2016) as HuBERT's positional convolution has it, torch's `weight_norm` with
//! `dim=2`: `w[:, :, k] = g[k] v[:, :, k] / |v[:, :, k]|`, a norm over the first two axes for each k.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{expect_shape, read, write};
use crate::{Error, Result};

const OP: &str = "weight_norm";

fn dims3(what: &'static str, t: &Tensor) -> Result<(usize, usize, usize)> {
    match *t.dims() {
        [o, i, k] => Ok((o, i, k)),
        _ => Err(Error::Shape { op: OP, what, expected: "[out, in, kernel]".into(), got: t.shape().clone() }),
    }
}

/// v `[o, i, k]`, g `[1, 1, k]` to w `[o, i, k]` of v's dtype.
///
/// # Errors
/// Shapes that do not fit; a dtype other than f32 or bf16.
pub fn forward(v: &Tensor, g: &Tensor) -> Result<Tensor> {
    let (_, _, k) = dims3("v", v)?;
    expect_shape(OP, "g", g, &[1, 1, k])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(v) {
        return cuda::forward(v, g);
    }
    let w = cpu::forward(&read(OP, v)?, &read(OP, g)?);
    write(OP, w, v.shape(), v.dtype())
}

/// The gradients of v `[o, i, k]` and g `[1, 1, k]`, f32, for grad `[o, i, k]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(grad: &Tensor, v: &Tensor, g: &Tensor) -> Result<(Tensor, Tensor)> {
    let (_, _, k) = dims3("v", v)?;
    expect_shape(OP, "grad", grad, v.dims())?;
    expect_shape(OP, "g", g, &[1, 1, k])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(v) {
        return cuda::backward(grad, v, g);
    }
    let (dv, dg) = cpu::backward(&read(OP, grad)?, &read(OP, v)?, &read(OP, g)?);
    Ok((write(OP, dv, v.shape(), DType::F32)?, write(OP, dg, (1, 1, k), DType::F32)?))
}
