//! One query over many keys, as in decoding with a cache: every key and value is read once, where it lies, for all heads.

use std::ops::Range;

use super::View;
use crate::attention::{Attention, Heads};
use crate::{parallel, simd};

/// Keys per task.
const KEYS: usize = 256;

/// Whether a sequence is done here.
pub fn fits(view: &View) -> bool {
    view.lq == 1 && view.mask(0).is_none()
}

/// Fills the rows of `out` [tq, h, dh] and columns of `lse` [h, tq] of the sequences that fit.
pub fn forward(q: &[f32], k: &[f32], v: &[f32], heads: Heads, args: &Attention, out: &mut [f32], lse: &mut [f32]) {
    let Heads { h, hk, dh } = heads;
    let mut tasks: Vec<(usize, Range<usize>)> = Vec::new();
    for s in (0..args.q_seq.count()).filter(|&s| fits(&View::new(args, s, 0))) {
        let keys = args.k_seq.range(s);
        tasks.extend(keys.clone().step_by(KEYS).map(|start| (s, start..keys.end.min(start + KEYS))));
    }
    let work: usize = tasks.iter().map(|(_, keys)| keys.len() * h * dh).sum();
    let partial = parallel::map(tasks.len(), work, |task| {
        let (s, keys) = tasks[task].clone();
        let q = &q[args.q_seq.range(s).start * h * dh..][..h * dh];
        let (k, v) = (&k[keys.start * hk * dh..keys.end * hk * dh], &v[keys.start * hk * dh..keys.end * hk * dh]);
        simd::run(
            #[inline(always)]
            || some_keys(q, k, v, heads, args.scale),
        )
    });
    let mut done = 0;
    for parts in tasks.chunk_by(|a, b| a.0 == b.0) {
        let row = args.q_seq.range(parts[0].0).start;
        let partial = &partial[done..done + parts.len()];
        done += parts.len();
        for (head, out) in out[row * h * dh..(row + 1) * h * dh].chunks_exact_mut(dh).enumerate() {
            lse[head * args.q_seq.total() + row] = combine(partial, head, out);
        }
    }
}

/// The softmax over some of the keys.
struct Partial {
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Weighted values [h, dh].
    out: Vec<f32>,
}

#[inline(always)]
fn some_keys(q: &[f32], k: &[f32], v: &[f32], Heads { h, hk, dh }: Heads, scale: f32) -> Partial {
    let group = h / hk;
    let keys = k.len() / (hk * dh);
    let mut weights = vec![0.0; h * keys];
    for (j, k) in k.chunks_exact(hk * dh).enumerate() {
        for (head, q) in q.chunks_exact(dh).enumerate() {
            weights[head * keys + j] = simd::dot(q, &k[head / group * dh..][..dh]) * scale;
        }
    }
    let mut partial = Partial { max: vec![0.0; h], sum: vec![0.0; h], out: vec![0.0; h * dh] };
    for (head, weights) in weights.chunks_exact_mut(keys).enumerate() {
        let max = simd::max(weights);
        weights.iter_mut().for_each(|x| *x = simd::exp(*x - max));
        (partial.max[head], partial.sum[head]) = (max, simd::sum(weights));
    }
    for (j, v) in v.chunks_exact(hk * dh).enumerate() {
        for (head, out) in partial.out.chunks_exact_mut(dh).enumerate() {
            let weight = weights[head * keys + j];
            for (out, v) in out.iter_mut().zip(&v[head / group * dh..][..dh]) {
                *out = v.mul_add(weight, *out);
            }
        }
    }
    partial
}

/// One head's output from the parts in the order of the keys; returns the log-sum-exp.
fn combine(parts: &[Partial], head: usize, out: &mut [f32]) -> f32 {
    let dh = out.len();
    let max = parts.iter().map(|part| part.max[head]).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for part in parts {
        let decay = (part.max[head] - max).exp();
        sum += part.sum[head] * decay;
        for (out, x) in out.iter_mut().zip(&part.out[head * dh..]) {
            *out += x * decay;
        }
    }
    out.iter_mut().for_each(|x| *x /= sum);
    max + sum.ln()
}
