//! Rows moved about: gathered from several matrices, and overwritten; columns of them set to zero.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub(crate) mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result, SeqLens};

const OP: &str = "rows";

/// Row `i` of the result is row `index[i].1` of source `index[i].0`; sources are `[t_i, d]`, the result `[index.len(), d]` in the
/// dtype of the first.
///
/// Errors: no source, widths that differ, an index out of range.
pub fn gather(sources: &[&Tensor], index: &[(u32, u32)]) -> Result<Tensor> {
    let Some(first) = sources.first() else {
        return Err(Error::Value { op: OP, message: "no source to gather from".into() });
    };
    let (_, d) = dims2(OP, "source", first)?;
    for source in sources {
        let (rows, _) = dims2(OP, "source", source)?;
        expect_shape(OP, "source", source, &[rows, d])?;
    }
    for &(source, row) in index {
        let rows = sources.get(source as usize).map_or(0, |s| s.dims()[0]);
        if row as usize >= rows {
            let message = format!("row {row} of source {source} of {}: it has {rows} rows", sources.len());
            return Err(Error::Value { op: OP, message });
        }
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(first) {
        return cuda::gather(sources, index);
    }
    let data = sources.iter().map(|s| read(OP, s)).collect::<Result<Vec<_>>>()?;
    let data: Vec<&[f32]> = data.iter().map(|s| &**s).collect();
    write(OP, cpu::gather(&data, index, d), (index.len(), d), first.dtype())
}

/// The gradient `[rows, d]` for source number `source` of a [`gather`] by `index`: onto each of its rows, the sum of the rows
/// of `grad` taken from there. In the dtype of `grad`.
///
/// Errors: `grad` with another number of rows than `index`, an index into this source beyond `rows`.
pub fn scatter(grad: &Tensor, index: &[(u32, u32)], source: usize, rows: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "grad", grad)?;
    expect_shape(OP, "grad", grad, &[index.len(), d])?;
    let from_source = index.iter().enumerate().filter(|(_, (s, _))| *s as usize == source);
    let targets: Vec<(usize, usize)> = from_source.map(|(i, (_, row))| (*row as usize, i)).collect();
    if let Some((row, _)) = targets.iter().find(|(row, _)| *row >= rows) {
        let message = format!("row {row} of source {source}: it has {rows} rows");
        return Err(Error::Value { op: OP, message });
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::scatter(grad, targets, rows);
    }
    write(OP, cpu::scatter_add(&read(OP, grad)?, targets, d, rows), (rows, d), grad.dtype())
}

/// `x [t, d]` with each of `rows` overwritten by `with [d]`.
///
/// Errors: `with` not as wide as `x`, a row out of range.
pub fn replace(x: &Tensor, rows: &[u32], with: &Tensor) -> Result<Tensor> {
    let (t, d) = dims2(OP, "x", x)?;
    expect_shape(OP, "with", with, &[d])?;
    let replaced = mark(rows, t)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::replace(x, &replaced, with);
    }
    write(OP, cpu::replace(&read(OP, x)?, &replaced, &read(OP, with)?), (t, d), x.dtype())
}

/// The gradients for `x` (dtype of `grad`) and `with` (`[d]`, f32) of a [`replace`].
pub fn replace_backward(grad: &Tensor, rows: &[u32]) -> Result<(Tensor, Tensor)> {
    let (t, d) = dims2(OP, "grad", grad)?;
    let replaced = mark(rows, t)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::replace_backward(grad, &replaced);
    }
    let (dx, dwith) = cpu::replace_backward(&read(OP, grad)?, &replaced, d);
    Ok((write(OP, dx, (t, d), grad.dtype())?, write(OP, dwith, d, DType::F32)?))
}

/// `x [t, d]` with columns `columns[i]` of the rows of sequence `i` set to zero. It is its own gradient: of `grad` the same.
///
/// Errors: `seq` of another number of rows, another number of sequences than lists of columns, a column out of range.
pub fn zero_columns(x: &Tensor, seq: &SeqLens, columns: &[Vec<u32>]) -> Result<Tensor> {
    let (t, d) = dims2(OP, "x", x)?;
    let value = |message: String| Err(Error::Value { op: OP, message });
    if (seq.total(), seq.count()) != (t, columns.len()) {
        let (rows, count, lists) = (seq.total(), seq.count(), columns.len());
        return value(format!("{count} sequences of {rows} rows and {lists} lists of columns for {t} rows"));
    }
    if let Some(column) = columns.iter().flatten().find(|column| **column as usize >= d) {
        return value(format!("column {column} to set to zero: there are {d} columns"));
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::zero_columns(x, seq, columns);
    }
    write(OP, cpu::zero_columns(&read(OP, x)?, seq, columns, d), (t, d), x.dtype())
}

/// Whether each of `t` rows is one of `rows`.
fn mark(rows: &[u32], t: usize) -> Result<Vec<bool>> {
    let mut marked = vec![false; t];
    for &row in rows {
        match marked.get_mut(row as usize) {
            Some(mark) => *mark = true,
            None => return Err(Error::Value { op: OP, message: format!("row {row} to replace: there are {t} rows") }),
        }
    }
    Ok(marked)
}
