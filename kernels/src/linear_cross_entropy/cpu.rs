use super::{Needs, chunk_rows};
use crate::gemm::{View, gemm};
use crate::{parallel, simd};

/// The loss and its gradients, as in [`super::Loss`].
pub struct Sums {
    pub loss_sum: f64,
    pub correct: u64,
    pub d_hidden: Option<Vec<f32>>,
    pub d_weight: Option<Vec<f32>>,
}

pub fn forward(hidden: &[f32], weight: &[f32], d: usize, rows: &[u32], labels: &[u32], needs: Needs) -> Sums {
    let v = weight.len().checked_div(d).unwrap_or(0);
    let mut sums = Sums {
        loss_sum: 0.0,
        correct: 0,
        d_hidden: needs.hidden.then(|| vec![0.0; hidden.len()]),
        d_weight: needs.weight.then(|| vec![0.0; weight.len()]),
    };
    let chunk = chunk_rows(v).min(rows.len()).max(1);
    let (mut x, mut logits, mut dx) = (vec![0.0; chunk * d], vec![0.0; chunk * v], vec![0.0; chunk * d]);
    for (rows, labels) in rows.chunks(chunk).zip(labels.chunks(chunk)) {
        let r = rows.len();
        let at = |row: u32| row as usize * d..(row as usize + 1) * d;
        for (x, &row) in x.chunks_exact_mut(d).zip(rows) {
            x.copy_from_slice(&hidden[at(row)]);
        }
        let (x, logits) = (&x[..r * d], &mut logits[..r * v]);
        gemm(r, v, d, View::rows(x, d), View::rows(weight, d).t(), logits, v, false);
        for (loss, correct) in rows_backward(logits, v, labels) {
            sums.loss_sum += loss;
            sums.correct += u64::from(correct);
        }
        if let Some(d_hidden) = &mut sums.d_hidden {
            gemm(r, d, v, View::rows(logits, v), View::rows(weight, d), &mut dx, d, false);
            for (dx, &row) in dx.chunks_exact(d).zip(rows) {
                d_hidden[at(row)].iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
            }
        }
        if let Some(d_weight) = &mut sums.d_weight {
            gemm(v, d, r, View::rows(logits, v).t(), View::rows(x, d), d_weight, d, true);
        }
    }
    sums
}

/// Each row's loss and whether its largest logit is the label's; the logits [r, v] become their gradients.
fn rows_backward(logits: &mut [f32], v: usize, labels: &[u32]) -> Vec<(f64, bool)> {
    let mut results = vec![(0.0, false); labels.len()];
    let work = logits.len();
    let rows = logits.chunks_exact_mut(v).zip(&mut results).collect();
    parallel::for_each(rows, work, |i, (row, result): (&mut [f32], &mut (f64, bool))| {
        simd::run(
            #[inline(always)]
            || *result = row_backward(row, labels[i] as usize),
        );
    });
    results
}

#[inline(always)]
fn row_backward(row: &mut [f32], label: usize) -> (f64, bool) {
    let max = simd::max(row);
    let target = row[label];
    let correct = target >= max && row[..label].iter().all(|&x| x < max);
    let mut sum = 0.0;
    // Short runs in f32, their sums in f64: a vocabulary is too long for one f32 sum.
    for run in row.chunks_mut(1024) {
        run.iter_mut().for_each(|x| *x = simd::exp(*x - max));
        sum += f64::from(simd::sum(run));
    }
    let scale = (1.0 / sum) as f32;
    row.iter_mut().for_each(|x| *x *= scale);
    row[label] -= 1.0;
    (sum.ln() + f64::from(max) - f64::from(target), correct)
}
