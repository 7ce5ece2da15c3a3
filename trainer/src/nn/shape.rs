//! Adding and reshaping.

use crate::autograd::{Result, Tape, Var};
use candle_core::Tensor;

/// `a + b`, same shape.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let y = (a.tensor() + b.tensor())?;
    Ok(tape.op("add", &[a, b], y, |grad, needs| Ok(vec![needs[0].then(|| grad.clone()), needs[1].then_some(grad)])))
}

/// `factor · x`.
pub fn scale(tape: &Tape, x: &Var, factor: f64) -> Result<Var> {
    let y = (x.tensor() * factor)?;
    Ok(tape.op("scale", &[x], y, move |grad, _| Ok(vec![Some((grad * factor)?)])))
}

/// The same elements in another shape.
pub fn reshape(tape: &Tape, x: &Var, dims: &[usize]) -> Result<Var> {
    let y = x.tensor().reshape(dims)?;
    let back = x.dims().to_vec();
    Ok(tape.op("reshape", &[x], y, move |grad, _| Ok(vec![Some(grad.reshape(back)?)])))
}

/// Columns `start..start + len` of x `[t, d]`.
pub fn narrow_columns(tape: &Tape, x: &Var, start: usize, len: usize) -> Result<Var> {
    let y = x.tensor().narrow(1, start, len)?.contiguous()?;
    let width = x.dims()[1];
    Ok(tape.op("narrow", &[x], y, move |grad, _| {
        let rows = grad.dims()[0];
        let zeros = |n: usize| Tensor::zeros((rows, n), grad.dtype(), grad.device());
        Ok(vec![Some(Tensor::cat(&[zeros(start)?, grad.clone(), zeros(width - start - len)?], 1)?)])
    }))
}
