//! Adding and reshaping.

use crate::autograd::{Result, Tape, Var};
use candle_core::Tensor;
use echat_kernels::elementwise;

/// `a + b`, same shape.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    let y = elementwise::add(a.tensor(), b.tensor())?;
    Ok(tape.op("add", &[a, b], y, |grad, needs| Ok(vec![needs[0].then(|| grad.clone()), needs[1].then_some(grad)])))
}

/// `factor · x`.
pub fn scale(tape: &Tape, x: &Var, factor: f64) -> Result<Var> {
    let y = elementwise::scale(x.tensor(), factor)?;
    Ok(tape.op("scale", &[x], y, move |grad, _| Ok(vec![Some(elementwise::scale(&grad, factor)?)])))
}

/// The same elements in another shape.
pub fn reshape(tape: &Tape, x: &Var, dims: &[usize]) -> Result<Var> {
    let y = x.tensor().reshape(dims)?;
    let back = x.dims().to_vec();
    Ok(tape.op("reshape", &[x], y, move |grad, _| Ok(vec![Some(grad.reshape(back)?)])))
}

/// Rows of w `[r, d]` cut into consecutive parts of `sizes` rows; the parts share its storage.
pub fn split_rows(tape: &Tape, w: &Var, sizes: &[usize]) -> Result<Vec<Var>> {
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        parts.push(w.tensor().narrow(0, start, size)?);
        start += size;
    }
    let (sizes, width) = (sizes.to_vec(), w.dims()[1]);
    Ok(tape.op_multi("split_rows", &[w], parts, move |grads, _| {
        let Some(like) = grads.iter().flatten().next() else { return Ok(vec![None]) };
        let (dtype, device) = (like.dtype(), like.device().clone());
        let parts = grads.into_iter().zip(&sizes).map(|(grad, &rows)| match grad {
            Some(grad) => Ok(grad),
            None => Tensor::zeros((rows, width), dtype, &device),
        });
        let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(vec![Some(Tensor::cat(&parts, 0)?)])
    }))
}
