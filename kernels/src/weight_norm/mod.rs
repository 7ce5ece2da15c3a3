//! Weight normalisation over taps (`torch.nn.utils.weight_norm` with `dim = 2`): `w[o, i, k] = g[k] v[o, i, k] / ‖v[:, :, k]‖₂`.

mod cpu;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{expect_shape, read, write};
use crate::{Error, Result};

const OP: &str = "weight_norm";

fn taps(v: &Tensor) -> Result<usize> {
    match *v.dims() {
        [_, _, taps] if taps > 0 => Ok(taps),
        _ => Err(Error::Shape { op: OP, what: "v", expected: "[d_out, d_in, k]".into(), got: v.shape().clone() }),
    }
}

/// v `[d_out, d_in, k]`, g `[1, 1, k]` to w of v's shape and dtype.
///
/// # Errors
/// Shapes that do not fit; a dtype other than f32 or bf16.
pub fn forward(v: &Tensor, g: &Tensor) -> Result<Tensor> {
    expect_shape(OP, "g", g, &[1, 1, taps(v)?])?;
    write(OP, cpu::forward(&read(OP, v)?, &read(OP, g)?), v.shape(), v.dtype())
}

/// The gradients of v `[d_out, d_in, k]` and g `[1, 1, k]`, both f32.
///
/// # Errors
/// As [`forward`].
pub fn backward(grad: &Tensor, v: &Tensor, g: &Tensor) -> Result<(Tensor, Tensor)> {
    expect_shape(OP, "g", g, &[1, 1, taps(v)?])?;
    expect_shape(OP, "grad", grad, v.dims())?;
    let (dv, dg) = cpu::backward(&read(OP, grad)?, &read(OP, v)?, &read(OP, g)?);
    Ok((write(OP, dv, v.shape(), DType::F32)?, write(OP, dg, g.shape(), DType::F32)?))
}
