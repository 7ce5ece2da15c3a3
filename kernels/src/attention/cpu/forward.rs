use std::ops::Range;

use super::product::{Cut, Product};
use super::{
    Mask, Scratch, TILE_K, TILE_Q, View, by_head, fill_unseen, gather, padded, scatter, single, take, transpose,
    with_scratch,
};
use crate::attention::{Attention, Heads};
use crate::simd::LANES;
use crate::{parallel, simd};

/// Queries per task.
const CHUNK: usize = 8 * TILE_Q;

/// The output [tq, h, dh] and log-sum-exp [h, tq].
pub fn forward(q: &[f32], k: &[f32], v: &[f32], heads: Heads, args: &Attention) -> (Vec<f32>, Vec<f32>) {
    let Heads { h, dh, .. } = heads;
    let tq = args.q_seq.total();
    let chunks: Vec<(usize, Range<usize>)> = (0..args.q_seq.count())
        .flat_map(|s| {
            let len = args.q_seq.len_of(s);
            (0..len).step_by(CHUNK).map(move |start| (s, start..len.min(start + CHUNK)))
        })
        .collect();
    let mut out = vec![0.0; q.len()];
    let mut lse = vec![f32::NEG_INFINITY; h * tq];
    let mut lse_of_heads: Vec<&mut [f32]> = lse.chunks_mut(tq.max(1)).collect();
    let parts = by_head(&mut out, h, dh, chunks.iter().map(|(_, rows)| rows.len()));
    let mut tasks = Vec::with_capacity(parts.len());
    for (task, out) in parts.into_iter().enumerate() {
        let (sequence, rows) = chunks[task / h].clone();
        let rest = std::mem::take(&mut lse_of_heads[task % h]);
        let (lse, rest) = rest.split_at_mut(rows.len());
        lse_of_heads[task % h] = rest;
        let view = View::new(args, sequence, task % h);
        if !single::fits(&view) {
            tasks.push((view, rows, out, lse));
        }
    }
    let work: usize = tasks.iter().map(|(view, rows, ..)| rows.len() * view.lk * dh).sum();
    parallel::for_each(tasks, work, |_, (view, rows, out, lse)| {
        with_scratch(|scratch| queries(&view, rows, [q, k, v], heads, scratch, out, lse));
    });
    single::forward(q, k, v, heads, args, &mut out, &mut lse);
    (out, lse)
}

/// One head of the queries `rows` of a sequence.
fn queries(
    view: &View,
    rows: Range<usize>,
    [q, k, v]: [&[f32]; 3],
    Heads { h, hk, dh }: Heads,
    scratch: &mut Scratch,
    mut out: Vec<&mut [f32]>,
    lse: &mut [f32],
) {
    let wide = padded(dh);
    let keys = view.args.k_seq.range(view.sequence).start;
    let keys = keys..keys + view.seen(rows.end - 1);
    let kv_head = (view.head / (h / hk), hk, dh);
    let k = &*gather(&mut scratch.k, k, keys.clone(), kv_head, 1.0);
    let v = &*gather(&mut scratch.v, v, keys, kv_head, 1.0);
    let first = view.args.q_seq.range(view.sequence).start;
    for (q0, (out, lse)) in rows.step_by(TILE_Q).zip(out.chunks_mut(TILE_Q).zip(lse.chunks_mut(TILE_Q))) {
        let len = lse.len();
        let q = gather(&mut scratch.q, q, first + q0..first + q0 + len, (view.head, h, dh), view.args.scale);
        let q = &*transpose(&mut scratch.q_columns, q, dh);
        let sums = take(&mut scratch.out, len * wide);
        let mut softmax = Softmax::new();
        let mask = view.mask(q0);
        let seen = view.seen(q0 + len - 1);
        for k0 in (0..seen).step_by(TILE_K) {
            let len_k = TILE_K.min(seen - k0);
            let shift = view.shift(q0, k0, len_k);
            let columns = padded(len);
            let scores = take(&mut scratch.scores, len_k * columns);
            let (a, b, cut) = (&k[k0 * wide..], q, shift.map_or(Cut::None, Cut::Columns));
            let product = Product::<false> { m: len_k, n: columns, k: dh, a, lda: wide, b, ldb: columns, cut };
            product.store(scores, columns);
            fill_unseen(scores, columns, shift, f32::NEG_INFINITY);
            softmax.add(scores, columns, k0, mask.as_ref());
            let (b, cut) = (&v[k0 * wide..], shift.map_or(Cut::None, Cut::DepthTo));
            let product = Product::<true> { m: len, n: wide, k: len_k, a: scores, lda: columns, b, ldb: wide, cut };
            if k0 == 0 {
                product.store(sums, wide);
            } else {
                rescale(sums, wide, &softmax.decay);
                product.add(sums, wide);
            }
        }
        if seen > 0 {
            softmax.finish(sums, wide, lse);
            scatter(sums, 1.0, out);
        }
    }
}

/// The running maximum and sum of each query of a tile.
struct Softmax {
    max: [f32; TILE_Q],
    sum: [f32; TILE_Q],
    /// What the last tile's maximum made of the weights before it.
    decay: [f32; TILE_Q],
}

impl Softmax {
    fn new() -> Self {
        Self { max: [f32::NEG_INFINITY; TILE_Q], sum: [0.0; TILE_Q], decay: [0.0; TILE_Q] }
    }

    /// Turns the scores [keys, columns] from key `k0` into weights relative to the new maximum, dropped ones zero.
    fn add(&mut self, scores: &mut [f32], columns: usize, k0: usize, mask: Option<&Mask>) {
        simd::run(
            #[inline(always)]
            || {
                for block in 0..columns / LANES {
                    self.add_block(scores.as_chunks_mut().0, columns / LANES, block, k0, mask);
                }
            },
        );
    }

    #[inline(always)]
    fn add_block(&mut self, scores: &mut [[f32; LANES]], stride: usize, block: usize, k0: usize, mask: Option<&Mask>) {
        let max_before = &mut self.max.as_chunks_mut::<LANES>().0[block];
        let mut max = *max_before;
        for x in scores[block..].iter().step_by(stride) {
            for (m, x) in max.iter_mut().zip(x) {
                *m = if *x > *m { *x } else { *m };
            }
        }
        // A query that has seen no key yet keeps weights of zero.
        let base = max.map(|m| if m == f32::NEG_INFINITY { 0.0 } else { m });
        let mut sum = [0.0; LANES];
        for x in scores[block..].iter_mut().step_by(stride) {
            for ((x, base), sum) in x.iter_mut().zip(&base).zip(&mut sum) {
                *x = simd::exp(*x - base);
                *sum += *x;
            }
        }
        let decay = &mut self.decay.as_chunks_mut::<LANES>().0[block];
        let total = &mut self.sum.as_chunks_mut::<LANES>().0[block];
        for i in 0..LANES {
            decay[i] = simd::exp(max_before[i] - base[i]);
            total[i] = total[i].mul_add(decay[i], sum[i]);
        }
        *max_before = max;
        if let Some(mask) = mask {
            for (j, x) in scores[block..].iter_mut().step_by(stride).enumerate() {
                let factors = mask.factors(block, (k0 + j) as u32);
                x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }
        }
    }

    /// Divides the weighted sums by the weights and gives the log-sum-exp.
    fn finish(&self, out: &mut [f32], wide: usize, lse: &mut [f32]) {
        for (i, (row, lse)) in out.chunks_exact_mut(wide).zip(lse).enumerate() {
            if self.max[i] == f32::NEG_INFINITY && self.sum[i] == 0.0 {
                row.fill(0.0);
                continue;
            }
            let scale = 1.0 / self.sum[i];
            row.iter_mut().for_each(|x| *x *= scale);
            *lse = self.max[i] + self.sum[i].ln();
        }
    }
}

fn rescale(out: &mut [f32], wide: usize, decay: &[f32; TILE_Q]) {
    for (row, decay) in out.chunks_exact_mut(wide).zip(decay) {
        row.iter_mut().for_each(|x| *x *= decay);
    }
}
