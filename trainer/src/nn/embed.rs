//! Picking and placing rows.

use std::rc::Rc;

use echat_kernels::{SeqLens, embedding as kernel, rows};

use crate::autograd::{Result, Tape, Var};

/// Rows `ids` of `table` `[v, d]` → `[n, d]`.
pub fn embedding(tape: &Tape, table: &Var, ids: &[u32]) -> Result<Var> {
    let y = kernel::forward(table.tensor(), ids)?;
    let (ids, vocab) = (ids.to_vec(), table.dims()[0]);
    Ok(tape.op("embedding", &[table], y, move |grad, _| Ok(vec![Some(kernel::backward(&grad, &ids, vocab)?)])))
}

/// Row `i` of the result is row `index[i].1` of `sources[index[i].0]`; all sources `[_, d]`.
pub fn gather_rows(tape: &Tape, sources: &[&Var], index: Vec<(u32, u32)>) -> Result<Var> {
    let tensors: Vec<_> = sources.iter().map(|v| v.tensor()).collect();
    let y = rows::gather(&tensors, &index)?;
    let lengths: Vec<usize> = sources.iter().map(|v| v.dims()[0]).collect();
    Ok(tape.op("gather_rows", sources, y, move |grad, needs| {
        let one = |i: usize| needs[i].then(|| rows::scatter(&grad, &index, i, lengths[i])).transpose();
        (0..lengths.len()).map(|i| Ok(one(i)?)).collect()
    }))
}

/// x `[t, d]` with each of `rows` replaced by `with` `[d]` (HuBERT's time masking).
pub fn replace_rows(tape: &Tape, x: &Var, rows: Rc<[u32]>, with: &Var) -> Result<Var> {
    let y = rows::replace(x.tensor(), &rows, with.tensor())?;
    Ok(tape.op("replace_rows", &[x, with], y, move |grad, needs| {
        let (dx, dwith) = rows::replace_backward(&grad, &rows)?;
        Ok(vec![needs[0].then_some(dx), needs[1].then_some(dwith)])
    }))
}

/// x `[t, d]` with `columns[i]` of the rows of sequence `i` set to zero (HuBERT's masking along the feature axis).
pub fn zero_columns(tape: &Tape, x: &Var, seq: &SeqLens, columns: Rc<[Vec<u32>]>) -> Result<Var> {
    let y = rows::zero_columns(x.tensor(), seq, &columns)?;
    let seq = seq.clone();
    Ok(tape.op("zero_columns", &[x], y, move |grad, _| Ok(vec![Some(rows::zero_columns(&grad, &seq, &columns)?)])))
}
