//! The dense layer `y = x w^T + b`: x `[t, i]`, w `[o, i]`, b `[o]`, y `[t, o]`.
//!
//! On a CPU a row of y depends, bitwise, on its row of x alone; on a GPU how many rows there are decides in which order cuBLAS adds.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Tensor};

use crate::Result;
use crate::tensor::{dims2, expect_shape, read, write};

const OP: &str = "linear";

static WEIGHT_GRADIENTS: AtomicU64 = AtomicU64::new(0);

/// `x w^T + bias`: x `[t, i]`, w `[o, i]`, bias `[o]` to `[t, o]` of x's dtype.
///
/// # Errors
/// Shapes that do not fit; a dtype other than f32 or bf16.
pub fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (t, i) = dims2(OP, "x", x)?;
    let (o, _) = dims2(OP, "w", w)?;
    expect_shape(OP, "w", w, &[o, i])?;
    if let Some(bias) = bias {
        expect_shape(OP, "bias", bias, &[o])?;
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::forward(x, w, bias, [t, i, o]);
    }
    let bias = bias.map(|b| read(OP, b)).transpose()?;
    let y = cpu::forward(&read(OP, x)?, &read(OP, w)?, bias.as_deref(), t, i, o);
    write(OP, y, (t, o), x.dtype())
}

/// The gradient of x, `grad w`: grad `[t, o]`, w `[o, i]` to `[t, i]` of grad's dtype.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(grad: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (t, o) = dims2(OP, "grad", grad)?;
    let (_, i) = dims2(OP, "w", w)?;
    expect_shape(OP, "w", w, &[o, i])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward_input(grad, w, [t, i, o]);
    }
    let dx = cpu::backward_input(&read(OP, grad)?, &read(OP, w)?, t, i, o);
    write(OP, dx, (t, i), grad.dtype())
}

/// The gradient of w, `grad^T x`: grad `[t, o]`, x `[t, i]` to `[o, i]`, f32.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (t, o) = dims2(OP, "grad", grad)?;
    let (_, i) = dims2(OP, "x", x)?;
    expect_shape(OP, "x", x, &[t, i])?;
    WEIGHT_GRADIENTS.fetch_add(1, Ordering::Relaxed);
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward_weight(grad, x, [t, i, o]);
    }
    let dw = cpu::backward_weight(&read(OP, grad)?, &read(OP, x)?, t, i, o);
    write(OP, dw, (o, i), DType::F32)
}

/// The gradient of the bias, the sum of grad's rows: `[t, o]` to `[o]`, f32.
///
/// # Errors
/// A grad that is not a matrix; a dtype other than f32 or bf16.
pub fn backward_bias(grad: &Tensor) -> Result<Tensor> {
    let (_, o) = dims2(OP, "grad", grad)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward_bias(grad);
    }
    let db = cpu::backward_bias(&read(OP, grad)?, o);
    write(OP, db, o, DType::F32)
}

/// How many weight gradients this process has computed here: a frozen layer computes none.
pub fn weight_gradient_count() -> u64 {
    WEIGHT_GRADIENTS.load(Ordering::Relaxed)
}
