//! The mean over the rows of each sequence of a packed batch.

pub(crate) mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub(crate) mod cuda;
pub mod reference;

use candle_core::Tensor;

use crate::{Result, SeqLens, tensor};

const OP: &str = "mean_pool";

/// The mean row of each sequence of `x` [t, d]: [n, d], zeros for a sequence without rows.
pub fn forward(x: &Tensor, seq: &SeqLens) -> Result<Tensor> {
    let (_, d) = tensor::dims2(OP, "x", x)?;
    tensor::expect_shape(OP, "x", x, &[seq.total(), d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::forward(x, seq);
    }
    tensor::write(OP, cpu::forward(&tensor::read(OP, x)?, seq, d), (seq.count(), d), x.dtype())
}

/// The gradient of `x` [t, d] from that of the means, `grad` [n, d].
pub fn backward(grad: &Tensor, seq: &SeqLens) -> Result<Tensor> {
    let (_, d) = tensor::dims2(OP, "grad", grad)?;
    tensor::expect_shape(OP, "grad", grad, &[seq.count(), d])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward(grad, seq);
    }
    tensor::write(OP, cpu::backward(&tensor::read(OP, grad)?, seq, d), (seq.total(), d), grad.dtype())
}
