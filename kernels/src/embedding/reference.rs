//! Token embedding, defined.

/// Rows `ids` of `table`, of width `d`.
pub fn forward(table: &[f64], ids: &[u32], d: usize) -> Vec<f64> {
    ids.iter().flat_map(|&id| table[id as usize * d..][..d].to_vec()).collect()
}

/// The table's gradient `[vocab, d]`.
pub fn backward(grad: &[f64], ids: &[u32], d: usize, vocab: usize) -> Vec<f64> {
    let mut table = vec![0.0; vocab * d];
    for (i, &id) in ids.iter().enumerate() {
        for j in 0..d {
            table[id as usize * d + j] += grad[i * d + j];
        }
    }
    table
}
