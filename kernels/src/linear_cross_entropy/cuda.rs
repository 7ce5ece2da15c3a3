//! The output head's loss on a GPU: as on the CPU a chunk of rows at a time, of more rows.

use candle_core::{DType, Tensor};

use super::{Loss, Needs, OP, gpu_chunk_rows};
use crate::cuda::{Call, Matrix, Product, empty, suffix, upload, zeros};
use crate::{Result, rows};

pub(super) fn forward(
    hidden: &Tensor,
    weight: &Tensor,
    labelled: &[u32],
    labels: &[u32],
    needs: Needs,
    [t, d, v]: [usize; 3],
) -> Result<Loss> {
    let dtype = hidden.dtype();
    let sums = zeros(2, DType::F64, hidden)?;
    let d_weight = if needs.weight { Some(zeros((v, d), DType::F32, hidden)?) } else { None };
    let d_rows = if needs.hidden { Some(empty((labelled.len(), d), dtype, hidden)?) } else { None };
    let chunk = gpu_chunk_rows(v, labelled.len());
    let index: Vec<(u32, u32)> = labelled.iter().map(|&row| (0, row)).collect();
    for first in (0..labelled.len()).step_by(chunk) {
        let n = chunk.min(labelled.len() - first);
        let x = rows::gather(&[hidden], &index[first..first + n])?;
        let logits = empty((n, v), DType::F32, hidden)?;
        let product =
            |size, a, b, c, accumulate| Product { op: OP, size, batch: 1, a, b, c, accumulate, bias: None }.run();
        product([n, v, d], Matrix::rows(&x, d), Matrix::rows(weight, d).t(), Matrix::rows(&logits, v), false)?;
        let grad = if dtype == DType::F32 { logits.clone() } else { empty((n, v), dtype, hidden)? };
        losses(&logits, &labels[first..][..n], &grad, &sums)?;
        if let Some(d_rows) = &d_rows {
            let out = Matrix::rows(d_rows, d).at(first * d);
            product([n, d, v], Matrix::rows(&grad, v), Matrix::rows(weight, d), out, false)?;
        }
        if let Some(d_weight) = &d_weight {
            let out = Matrix::rows(d_weight, d);
            product([v, d, n], Matrix::rows(&grad, v).t(), Matrix::rows(&x, d), out, true)?;
        }
    }
    let d_hidden = d_rows.map(|d_rows| rows::scatter(&d_rows, &index, 0, t)).transpose()?;
    Ok(Loss { sums, count: labelled.len() as u64, d_hidden, d_weight })
}

/// Turns `logits` into their gradients in `grad` and adds their losses to `sums`.
fn losses(logits: &Tensor, labels: &[u32], grad: &Tensor, sums: &Tensor) -> Result<()> {
    let (n, v) = logits.dims2()?;
    let (results, labels) = (empty((n, 2), DType::F64, logits)?, upload(labels, logits)?);
    let name = format!("linear_cross_entropy_rows_{}", suffix(OP, grad.dtype())?);
    let call = Call::new(OP, OP, &name).tensor(logits).tensor(&labels).tensor(grad).tensor(&results).u32(v);
    call.launch([n, 1, 1], 512.min(v.next_multiple_of(32)), 0)?;
    let call = Call::new(OP, OP, "linear_cross_entropy_sums").tensor(&results).tensor(sums).u32(n);
    call.launch([1, 1, 1], 256, 0)
}
