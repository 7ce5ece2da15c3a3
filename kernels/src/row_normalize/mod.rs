//! Rows divided by their L2 norm: Baichuan2's NormHead, `torch.nn.functional.normalize(w)`.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::{Result, tensor};

const OP: &str = "row_normalize";

/// A row shorter than this is divided by this instead of its norm, as in `F.normalize`.
pub const EPS: f32 = 1e-12;

/// `w` [v, d] with each row divided by its norm, and the norms [v] f32.
pub fn forward(w: &Tensor) -> Result<(Tensor, Tensor)> {
    let (v, d) = tensor::dims2(OP, "w", w)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(w) {
        return cuda::forward(w);
    }
    let (y, norms) = cpu::forward(&tensor::read(OP, w)?, v, d);
    Ok((tensor::write(OP, y, (v, d), w.dtype())?, tensor::write(OP, norms, v, candle_core::DType::F32)?))
}

/// The gradient of `w` from that of the output, `grad` [v, d], and the forward pass's `norms` [v].
pub fn backward(grad: &Tensor, w: &Tensor, norms: &Tensor) -> Result<Tensor> {
    let (v, d) = tensor::dims2(OP, "w", w)?;
    tensor::expect_shape(OP, "grad", grad, &[v, d])?;
    tensor::expect_shape(OP, "norms", norms, &[v])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(w) {
        return cuda::backward(grad, w, norms);
    }
    let dw = cpu::backward(&tensor::read(OP, grad)?, &tensor::read(OP, w)?, &tensor::read(OP, norms)?, d);
    tensor::write(OP, dw, (v, d), w.dtype())
}
