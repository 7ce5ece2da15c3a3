use crate::{SeqLens, parallel};

pub fn forward(x: &[f32], seq: &SeqLens, d: usize) -> Vec<f32> {
    let mut means = vec![0.0; seq.count() * d];
    if d == 0 {
        return means;
    }
    parallel::for_each(means.chunks_mut(d).collect(), x.len(), |i, mean: &mut [f32]| {
        let rows = seq.range(i);
        for row in x[rows.start * d..rows.end * d].chunks(d) {
            for (m, x) in mean.iter_mut().zip(row) {
                *m += x;
            }
        }
        let len = rows.len().max(1) as f32;
        mean.iter_mut().for_each(|m| *m /= len);
    });
    means
}

pub fn backward(grad: &[f32], seq: &SeqLens, d: usize) -> Vec<f32> {
    let mut dx = Vec::with_capacity(seq.total() * d);
    for (i, len) in seq.lens().enumerate() {
        let row: Vec<f32> = grad[i * d..(i + 1) * d].iter().map(|g| g / len.max(1) as f32).collect();
        for _ in 0..len {
            dx.extend_from_slice(&row);
        }
    }
    dx
}
