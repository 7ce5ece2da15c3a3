//! Token embedding on the CPU; the forward is candle's `index_select`.

use crate::rows::cpu::scatter_add;

/// The table's gradient `[vocab, d]`.
pub fn backward(grad: &[f32], ids: &[u32], d: usize, vocab: usize) -> Vec<f32> {
    let targets = ids.iter().enumerate().map(|(row, &id)| (id as usize, row)).collect();
    scatter_add(grad, targets, d, vocab)
}
