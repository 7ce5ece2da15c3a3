//! The output head's loss on a GPU: as on the CPU a chunk of rows at a time, of more rows.

use candle_core::{DType, Tensor};

use super::{Loss, Needs, OP, gpu_chunk_rows};
use crate::Result;
use crate::cuda::{Call, Matrix, Product, empty, suffix, upload, zeros};

pub(super) fn forward(
    hidden: &Tensor,
    weight: &Tensor,
    rows: &[u32],
    labels: &[u32],
    needs: Needs,
    [t, d, v]: [usize; 3],
) -> Result<Loss> {
    let dtype = hidden.dtype();
    let sums = zeros(2, DType::F64, hidden)?;
    let d_weight = if needs.weight { Some(zeros((v, d), DType::F32, hidden)?) } else { None };
    let d_rows = if needs.hidden { Some(empty((rows.len(), d), dtype, hidden)?) } else { None };
    let chunk = gpu_chunk_rows(v, rows.len());
    for (first, rows) in rows.chunks(chunk).enumerate().map(|(i, rows)| (i * chunk, rows)) {
        let n = rows.len();
        let x = gather(hidden, rows, d)?;
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
    let d_hidden = d_rows.map(|d_rows| scatter(&d_rows, rows, t)).transpose()?;
    Ok(Loss { sums, count: rows.len() as u64, d_hidden, d_weight })
}

fn gather(x: &Tensor, rows: &[u32], d: usize) -> Result<Tensor> {
    let (y, at) = (empty((rows.len(), d), x.dtype(), x)?, upload(rows, x)?);
    let name = format!("linear_cross_entropy_gather_{}", suffix(OP, x.dtype())?);
    Call::new(OP, OP, &name).tensor(x).tensor(&at).tensor(&y).u32(d).launch([rows.len(), 1, 1], 256, 0)?;
    Ok(y)
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

/// [t, d]: row `rows[i]` gets row i of `x`, or the sum where several go to the same; zeros elsewhere.
fn scatter(x: &Tensor, rows: &[u32], t: usize) -> Result<Tensor> {
    let (_, d) = x.dims2()?;
    let mut members: Vec<u32> = (0..rows.len() as u32).collect();
    members.sort_by_key(|&i| rows[i as usize]);
    let (mut targets, mut first): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    for (at, &i) in members.iter().enumerate() {
        if targets.last() != Some(&rows[i as usize]) {
            targets.push(rows[i as usize]);
            first.push(at as u32);
        }
    }
    first.push(rows.len() as u32);
    let count = targets.len();
    let y = zeros((t, d), x.dtype(), x)?;
    let (targets, first, members) = (upload(&targets, x)?, upload(&first, x)?, upload(&members, x)?);
    let name = format!("linear_cross_entropy_scatter_{}", suffix(OP, x.dtype())?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(&targets).tensor(&first).tensor(&members).tensor(&y).u32(d);
    call.launch([count, 1, 1], 256, 0)?;
    Ok(y)
}
