//! Token embedding: rows of a table by id.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::tensor::{dims2, expect_shape, read, write};
use crate::{Error, Result};

const OP: &str = "embedding";

/// Rows `ids` of `table [v, d]`: `[t, d]` in the table's dtype.
///
/// Errors: an id out of range.
pub fn forward(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (v, _) = dims2(OP, "table", table)?;
    check_ids(ids, v)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(table) {
        return cuda::forward(table, ids);
    }
    // A plain copy of rows: reading a whole bf16 table as f32 would cost more than the op.
    Ok(table.index_select(&Tensor::new(ids, table.device())?, 0)?)
}

/// The gradient `[vocab, d]` (f32) of the table: each row of `grad [t, d]` added to its id's row, in order.
///
/// Errors: `grad` with another number of rows than `ids`, an id out of range.
pub fn backward(grad: &Tensor, ids: &[u32], vocab: usize) -> Result<Tensor> {
    let (_, d) = dims2(OP, "grad", grad)?;
    expect_shape(OP, "grad", grad, &[ids.len(), d])?;
    check_ids(ids, vocab)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(grad) {
        return cuda::backward(grad, ids, vocab);
    }
    write(OP, cpu::backward(&read(OP, grad)?, ids, d, vocab), (vocab, d), DType::F32)
}

fn check_ids(ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(Error::Value { op: OP, message: format!("id {id} is out of a vocabulary of {vocab}") }),
        None => Ok(()),
    }
}
