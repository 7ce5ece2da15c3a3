//! Rows moved about, defined.

/// Rows `index` (source, row) of `sources`, all of width `d`.
pub fn gather(sources: &[&[f64]], index: &[(u32, u32)], d: usize) -> Vec<f64> {
    index.iter().flat_map(|&(s, row)| sources[s as usize][row as usize * d..][..d].to_vec()).collect()
}

/// The gradient `[rows, d]` for source number `source`.
pub fn scatter(grad: &[f64], index: &[(u32, u32)], source: usize, rows: usize, d: usize) -> Vec<f64> {
    let mut out = vec![0.0; rows * d];
    for (i, (_, row)) in index.iter().enumerate().filter(|(_, (s, _))| *s as usize == source) {
        for j in 0..d {
            out[*row as usize * d + j] += grad[i * d + j];
        }
    }
    out
}

/// `x` with each of `rows` overwritten by `with`.
pub fn replace(x: &[f64], rows: &[u32], with: &[f64]) -> Vec<f64> {
    let mut out = x.to_vec();
    for &row in rows {
        out[row as usize * with.len()..][..with.len()].copy_from_slice(with);
    }
    out
}

/// `(dx, dwith)`.
pub fn replace_backward(grad: &[f64], rows: &[u32], d: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut dx, mut dwith) = (grad.to_vec(), vec![0.0; d]);
    for (i, g) in grad.iter().enumerate() {
        if rows.contains(&((i / d) as u32)) {
            dx[i] = 0.0;
            dwith[i % d] += g;
        }
    }
    (dx, dwith)
}

/// `x`, rows of width `d` of sequences of `lens` rows, with `columns[i]` of sequence `i` set to zero.
pub fn zero_columns(x: &[f64], lens: &[usize], columns: &[Vec<u32>], d: usize) -> Vec<f64> {
    let owner: Vec<usize> = lens.iter().enumerate().flat_map(|(i, &len)| vec![i; len]).collect();
    let zero = |at: usize| columns[owner[at / d]].contains(&((at % d) as u32));
    x.iter().enumerate().map(|(at, &x)| if zero(at) { 0.0 } else { x }).collect()
}
