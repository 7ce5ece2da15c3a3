//! Token embedding by the kernels of `rows`.

use candle_core::{DType, Tensor};

use super::OP;
use crate::Result;
use crate::rows::cuda::{gather_pairs, scatter_add};

pub(super) fn forward(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let index: Vec<u32> = ids.iter().flat_map(|&id| [0, id]).collect();
    gather_pairs(OP, std::slice::from_ref(table), &index, table.dims()[1], table.dtype())
}

pub(super) fn backward(grad: &Tensor, ids: &[u32], vocab: usize) -> Result<Tensor> {
    // Most rows of a vocabulary are no step's: they are set to zero at once.
    let table = Tensor::zeros((vocab, grad.dims()[1]), DType::F32, grad.device())?;
    let mut targets: Vec<(usize, usize)> = ids.iter().enumerate().map(|(row, &id)| (id as usize, row)).collect();
    scatter_add(OP, grad, &mut targets, &table, false)?;
    Ok(table)
}
