use std::ops::Range;

use super::product::{Cut, Product};
use super::{
    Mask, Scratch, TILE_K, TILE_Q, View, fill_unseen, gather, interleave, padded, take, transpose, with_scratch,
};
use crate::attention::{Attention, Heads};
use crate::simd::LANES;
use crate::{parallel, simd};

/// Queries per task.
const CHUNK: usize = 8 * TILE_Q;

/// The output [tq, h, dh] and log-sum-exp [h, tq].
pub fn forward(q: &[f32], k: &[f32], v: &[f32], heads: Heads, args: &Attention) -> (Vec<f32>, Vec<f32>) {
    let Heads { h, dh, .. } = heads;
    let chunks: Vec<(usize, Range<usize>)> = (0..args.q_seq.count())
        .flat_map(|s| {
            let len = args.q_seq.len_of(s);
            (0..len).step_by(CHUNK).map(move |start| (s, start..len.min(start + CHUNK)))
        })
        .collect();
    let work: usize = chunks.iter().map(|(s, rows)| rows.len() * args.k_seq.len_of(*s) * h * dh).sum();
    let parts = parallel::map(chunks.len() * h, work, |task| {
        let (sequence, rows) = chunks[task / h].clone();
        let view = View::new(args, sequence, task % h);
        if view.lq == 1 && view.mask(0).is_none() {
            return single(&view, q, k, v, heads);
        }
        with_scratch(|scratch| queries(&view, rows, q, k, v, heads, scratch))
    });

    let tq = args.q_seq.total();
    let mut lse = vec![f32::NEG_INFINITY; h * tq];
    for ((sequence, rows), parts) in chunks.iter().zip(parts.chunks(h)) {
        let start = args.q_seq.range(*sequence).start + rows.start;
        for (head, part) in parts.iter().enumerate() {
            lse[head * tq + start..][..rows.len()].copy_from_slice(&part.lse);
        }
    }
    let mut out = vec![0.0; q.len()];
    interleave(&mut out, (h, dh), chunks.iter().map(|(_, rows)| rows.len()), |chunk, head| {
        &parts[chunk * h + head].out
    });
    (out, lse)
}

/// One head of some queries: the output [rows, padded dh] and log-sum-exp [rows].
struct Part {
    out: Vec<f32>,
    lse: Vec<f32>,
}

fn queries(
    view: &View,
    rows: Range<usize>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    Heads { h, hk, dh }: Heads,
    scratch: &mut Scratch,
) -> Part {
    let wide = padded(dh);
    let mut part = Part { out: vec![0.0; rows.len() * wide], lse: vec![f32::NEG_INFINITY; rows.len()] };
    let keys = args_range(view, view.seen(rows.end - 1));
    let kv_head = (view.head / (h / hk), hk, dh);
    let k = &*gather(&mut scratch.k, k, keys.clone(), kv_head, 1.0);
    let v = &*gather(&mut scratch.v, v, keys, kv_head, 1.0);
    let first = view.args.q_seq.range(view.sequence).start;
    for (q0, (out, lse)) in
        rows.clone().step_by(TILE_Q).zip(part.out.chunks_mut(TILE_Q * wide).zip(part.lse.chunks_mut(TILE_Q)))
    {
        let len = lse.len();
        let q = gather(&mut scratch.q, q, first + q0..first + q0 + len, (view.head, h, dh), view.args.scale);
        let q = &*transpose(&mut scratch.q_columns, q, dh);
        let mut softmax = Softmax::new();
        let mask = view.mask(q0);
        for k0 in (0..view.seen(q0 + len - 1)).step_by(TILE_K) {
            let len_k = TILE_K.min(view.seen(q0 + len - 1) - k0);
            let shift = view.shift(q0, k0, len_k);
            let columns = padded(len);
            let scores = take(&mut scratch.scores, len_k * columns);
            Product::<false> {
                m: len_k,
                n: columns,
                k: dh,
                a: &k[k0 * wide..],
                lda: wide,
                b: q,
                ldb: columns,
                c: scores,
                ldc: columns,
                add: false,
                cut: shift.map_or(Cut::None, Cut::Columns),
            }
            .run();
            fill_unseen(scores, columns, shift, f32::NEG_INFINITY);
            softmax.add(scores, columns, k0, mask.as_ref());
            if k0 > 0 {
                rescale(out, wide, &softmax.decay);
            }
            Product::<true> {
                m: len,
                n: wide,
                k: len_k,
                a: scores,
                lda: columns,
                b: &v[k0 * wide..],
                ldb: wide,
                c: out,
                ldc: wide,
                add: k0 > 0,
                cut: shift.map_or(Cut::None, Cut::DepthTo),
            }
            .run();
        }
        softmax.finish(out, wide, lse);
    }
    part
}

/// The first `seen` keys of the view's sequence, as rows of the packed tensor.
fn args_range(view: &View, seen: usize) -> Range<usize> {
    let start = view.args.k_seq.range(view.sequence).start;
    start..start + seen
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

/// One query, as in decoding with a cache: keys and values are read once, where they lie.
fn single(view: &View, q: &[f32], k: &[f32], v: &[f32], Heads { h, hk, dh }: Heads) -> Part {
    let wide = padded(dh);
    let mut part = Part { out: vec![0.0; wide], lse: vec![f32::NEG_INFINITY] };
    let keys = args_range(view, view.seen(0));
    if keys.is_empty() {
        return part;
    }
    let row = |x: usize| (x * hk + view.head / (h / hk)) * dh;
    let q = &q[(view.args.q_seq.range(view.sequence).start * h + view.head) * dh..][..dh];
    let mut weights = vec![0.0; keys.len()];
    simd::run(
        #[inline(always)]
        || {
            for (weight, key) in weights.iter_mut().zip(keys.clone()) {
                *weight = simd::dot(q, &k[row(key)..][..dh]) * view.args.scale;
            }
            let max = simd::max(&weights);
            weights.iter_mut().for_each(|x| *x = simd::exp(*x - max));
            let sum = simd::sum(&weights);
            for (weight, key) in weights.iter().zip(keys) {
                for (out, v) in part.out.iter_mut().zip(&v[row(key)..][..dh]) {
                    *out = v.mul_add(*weight, *out);
                }
            }
            part.out.iter_mut().for_each(|x| *x /= sum);
            part.lse[0] = max + sum.ln();
        },
    );
    part
}
