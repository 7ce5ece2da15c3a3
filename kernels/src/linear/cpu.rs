//! The dense layer on the CPU.

use crate::gemm::{View, gemm};
use crate::parallel;

/// Rows summed into one partial sum of the bias gradient.
const BIAS_ROWS: usize = 128;

pub fn forward(x: &[f32], w: &[f32], bias: Option<&[f32]>, t: usize, i: usize, o: usize) -> Vec<f32> {
    let mut y = match bias {
        Some(bias) => bias.repeat(t),
        None => vec![0.0; t * o],
    };
    gemm(t, o, i, View::rows(x, i), View::rows(w, i).t(), &mut y, o, bias.is_some());
    y
}

pub fn backward_input(grad: &[f32], w: &[f32], t: usize, i: usize, o: usize) -> Vec<f32> {
    let mut dx = vec![0.0; t * i];
    gemm(t, i, o, View::rows(grad, o), View::rows(w, i), &mut dx, i, false);
    dx
}

pub fn backward_weight(grad: &[f32], x: &[f32], t: usize, i: usize, o: usize) -> Vec<f32> {
    let mut dw = vec![0.0; o * i];
    gemm(o, i, t, View::rows(grad, o).t(), View::rows(x, i), &mut dw, i, false);
    dw
}

pub fn backward_bias(grad: &[f32], o: usize) -> Vec<f32> {
    let mut sum = vec![0.0; o];
    if o == 0 {
        return sum;
    }
    let pieces: Vec<&[f32]> = grad.chunks(BIAS_ROWS * o).collect();
    let partial = parallel::map(pieces.len(), grad.len(), |p| {
        let mut sum = vec![0.0; o];
        pieces[p].chunks_exact(o).for_each(|row| add(&mut sum, row));
        sum
    });
    partial.iter().for_each(|p| add(&mut sum, p));
    sum
}

fn add(sum: &mut [f32], row: &[f32]) {
    for (s, x) in sum.iter_mut().zip(row) {
        *s += x;
    }
}
