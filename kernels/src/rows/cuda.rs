//! Rows moved about by kernels.

use candle_core::{DType, Tensor};

use super::OP;
use crate::cuda::{CHUNK_THREADS, Call, alike, chunks, column_sum, empty, suffix, tiles, upload};
use crate::{Result, SeqLens};

pub(super) fn gather(sources: &[&Tensor], index: &[(u32, u32)]) -> Result<Tensor> {
    let (dtype, d) = (sources[0].dtype(), sources[0].dims()[1]);
    let sources = sources.iter().map(|source| source.to_dtype(dtype)).collect::<candle_core::Result<Vec<_>>>()?;
    let index: Vec<u32> = index.iter().flat_map(|&(source, row)| [source, row]).collect();
    gather_pairs(OP, &sources, &index, d, dtype)
}

/// The rows that `index` says, (source, row) one after the other, which lie within `sources` [_, d] of `dtype`.
pub(crate) fn gather_pairs(
    op: &'static str,
    sources: &[Tensor],
    index: &[u32],
    d: usize,
    dtype: DType,
) -> Result<Tensor> {
    let (rows, first) = (index.len() / 2, &sources[0]);
    let y = empty((rows, d), dtype, first)?;
    let index = upload(index, first)?;
    let name = format!("gather_{}", suffix(op, dtype)?);
    let call = Call::new(op, "rows", &name).tensors(sources, dtype).tensor(&index).tensor(&y).u32(rows).u32(d);
    let (grid, threads) = tiles(rows, d, dtype);
    call.launch(grid, threads, 0)?;
    Ok(y)
}

/// Rows that one block adds up; more of them on one target are added up by several, and their sums by another.
const RUN: usize = 64;

/// What rows are added up and where that goes, for one launch.
#[derive(Default)]
struct Sums {
    /// The rows to add, run after run.
    rows: Vec<u32>,
    /// Of each run where its rows begin in `rows`, where they end, and the row it becomes.
    runs: Vec<u32>,
}

impl Sums {
    fn push(&mut self, rows: impl IntoIterator<Item = usize>, target: usize) {
        let begin = self.rows.len();
        self.rows.extend(rows.into_iter().map(|row| row as u32));
        self.runs.extend([begin, self.rows.len(), target].map(|x| x as u32));
    }

    /// Adds up rows of `x`, of width `d`, into rows of `y`.
    fn launch(&self, op: &'static str, x: &Tensor, y: &Tensor, d: usize) -> Result<()> {
        let (rows, runs) = (upload(&self.rows, x)?, upload(&self.runs, x)?);
        let name = format!("sum_rows_{}_{}", suffix(op, x.dtype())?, suffix(op, y.dtype())?);
        let call = Call::new(op, "rows", &name).tensor(x).tensor(&rows).tensor(&runs).tensor(y).u32(d);
        let (tiles, threads) = tiles(1, d, x.dtype());
        call.launch([self.runs.len() / 3, tiles[1], 1], threads, 0)
    }
}

pub(super) fn scatter(grad: &Tensor, mut targets: Vec<(usize, usize)>, rows: usize) -> Result<Tensor> {
    let y = empty((rows, grad.dims()[1]), grad.dtype(), grad)?;
    scatter_add(OP, grad, &mut targets, &y, true)?;
    Ok(y)
}

/// For each `(target, row)` of `targets`, row `row` of `grad` added to row `target` of `y`, in an order that follows from them alone. Rows that are no
/// target become zeros if `clear`, else stay as they are.
pub(crate) fn scatter_add(
    op: &'static str,
    grad: &Tensor,
    targets: &mut [(usize, usize)],
    y: &Tensor,
    clear: bool,
) -> Result<()> {
    let (rows, d) = y.dims2()?;
    // Stable: what falls on one row stays in order.
    targets.sort_by_key(|(target, _)| *target);
    let (mut direct, mut parts, mut totals) = (Sums::default(), Sums::default(), Sums::default());
    let mut next = 0;
    for run in targets.chunk_by(|a, b| a.0 == b.0) {
        let target = run[0].0;
        if clear {
            (next..target).for_each(|row| direct.push([], row));
            next = target + 1;
        }
        if run.len() <= RUN {
            direct.push(run.iter().map(|(_, row)| *row), target);
            continue;
        }
        let first = parts.runs.len() / 3;
        run.chunks(RUN).zip(first..).for_each(|(piece, part)| parts.push(piece.iter().map(|(_, row)| *row), part));
        totals.push(first..parts.runs.len() / 3, target);
    }
    if clear {
        (next..rows).for_each(|row| direct.push([], row));
    }
    direct.launch(op, grad, y, d)?;
    if totals.runs.is_empty() {
        return Ok(());
    }
    let sums = empty((parts.runs.len() / 3, d), DType::F32, grad)?;
    parts.launch(op, grad, &sums, d)?;
    totals.launch(op, &sums, y, d)
}

/// Each of `replaced` as a number, on the device of `like`.
fn marks(replaced: &[bool], like: &Tensor) -> Result<Tensor> {
    upload(&replaced.iter().map(|&replaced| u8::from(replaced)).collect::<Vec<_>>(), like)
}

pub(super) fn replace(x: &Tensor, replaced: &[bool], with: &Tensor) -> Result<Tensor> {
    let ((rows, d), dtype) = (x.dims2()?, x.dtype());
    let (y, replaced) = (empty((rows, d), dtype, x)?, marks(replaced, x)?);
    let name = format!("replace_{}", alike(OP, &[x, with])?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(&replaced).tensor(with).tensor(&y).u32(rows).u32(d);
    let (grid, threads) = tiles(rows, d, dtype);
    call.launch(grid, threads, 0)?;
    Ok(y)
}

pub(super) fn replace_backward(grad: &Tensor, replaced: &[bool]) -> Result<(Tensor, Tensor)> {
    let ((rows, d), dtype) = (grad.dims2()?, grad.dtype());
    let grid = chunks(rows, 0, d, dtype);
    let (dx, replaced) = (empty((rows, d), dtype, grad)?, marks(replaced, grad)?);
    let partial = empty((grid[0], d), DType::F32, grad)?;
    let name = format!("replace_backward_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(&replaced).tensor(&dx).tensor(&partial).u32(rows).u32(d);
    call.launch(grid, CHUNK_THREADS, 0)?;
    Ok((dx, column_sum(OP, &partial)?))
}

pub(super) fn zero_columns(x: &Tensor, seq: &SeqLens, columns: &[Vec<u32>]) -> Result<Tensor> {
    let ((rows, d), dtype) = (x.dims2()?, x.dtype());
    let y = empty((rows, d), dtype, x)?;
    if y.elem_count() == 0 {
        return Ok(y);
    }
    // A bit for each column of each sequence.
    let words = d.div_ceil(32);
    let mut bits = vec![0u32; seq.count() * words];
    for (i, columns) in columns.iter().enumerate() {
        columns.iter().for_each(|&column| bits[i * words + column as usize / 32] |= 1 << (column % 32));
    }
    let (bits, offsets) = (upload(&bits, x)?, seq.device(x)?);
    let name = format!("zero_columns_{}", suffix(OP, dtype)?);
    let call = Call::new(OP, OP, &name).tensor(x).tensor(&offsets).tensor(&bits).tensor(&y);
    let call = call.u32(seq.count()).u32(rows).u32(d);
    call.launch(chunks(rows, seq.count(), d, dtype), CHUNK_THREADS, 0)?;
    Ok(y)
}
