//! The definition, in f64: scores, softmax, dropout mask and weighted sum, one query at a time.

use super::Attention;
use crate::rng;

/// Heads and their width: query heads, key heads, width.
pub type Heads = (usize, usize, usize);

/// The output [tq, h, dh] and the log-sum-exp [h, tq].
pub fn forward(q: &[f64], k: &[f64], v: &[f64], heads: Heads, args: &Attention) -> (Vec<f64>, Vec<f64>) {
    let (h, hk, dh) = heads;
    let tq = args.q_seq.total();
    let (mut out, mut lse) = (vec![0.0; tq * h * dh], vec![f64::NEG_INFINITY; h * tq]);
    for_queries(heads, args, |s, head, i| {
        let (row, keys) = (args.q_seq.range(s).start + i, args.k_seq.range(s).start);
        let (p, log_sum) = probabilities(q, k, heads, args, s, head, i);
        lse[head * tq + row] = log_sum;
        for (j, p) in p.iter().enumerate() {
            let kept = p * kept(args, s, head, i, j);
            for c in 0..dh {
                out[(row * h + head) * dh + c] += kept * v[((keys + j) * hk + head / (h / hk)) * dh + c];
            }
        }
    });
    (out, lse)
}

/// The gradients of `q`, `k` and `v`.
pub fn backward(
    grad: &[f64],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    heads: Heads,
    args: &Attention,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (h, hk, dh) = heads;
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for_queries(heads, args, |s, head, i| {
        let at_q = ((args.q_seq.range(s).start + i) * h + head) * dh;
        let at_k = |j: usize| ((args.k_seq.range(s).start + j) * hk + head / (h / hk)) * dh;
        let (p, _) = probabilities(q, k, heads, args, s, head, i);
        let keep: Vec<f64> = (0..p.len()).map(|j| kept(args, s, head, i, j)).collect();
        let dp: Vec<f64> =
            (0..p.len()).map(|j| keep[j] * (0..dh).map(|c| grad[at_q + c] * v[at_k(j) + c]).sum::<f64>()).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for j in 0..p.len() {
            let ds = p[j] * (dp[j] - mean) * f64::from(args.scale);
            for c in 0..dh {
                dq[at_q + c] += ds * k[at_k(j) + c];
                dk[at_k(j) + c] += ds * q[at_q + c];
                dv[at_k(j) + c] += p[j] * keep[j] * grad[at_q + c];
            }
        }
    });
    (dq, dk, dv)
}

fn for_queries((h, ..): Heads, args: &Attention, mut f: impl FnMut(usize, usize, usize)) {
    for s in 0..args.q_seq.count() {
        for head in 0..h {
            (0..args.q_seq.len_of(s)).for_each(|i| f(s, head, i));
        }
    }
}

/// The softmax over the keys that query `i` of sequence `s` sees, and the log of its divisor.
fn probabilities(
    q: &[f64],
    k: &[f64],
    (h, hk, dh): Heads,
    args: &Attention,
    s: usize,
    head: usize,
    i: usize,
) -> (Vec<f64>, f64) {
    let (lq, lk) = (args.q_seq.len_of(s), args.k_seq.len_of(s));
    let seen = if args.causal { (i + 1 + lk).saturating_sub(lq) } else { lk };
    let q = &q[((args.q_seq.range(s).start + i) * h + head) * dh..][..dh];
    let scores: Vec<f64> = (0..seen)
        .map(|j| {
            let k = &k[((args.k_seq.range(s).start + j) * hk + head / (h / hk)) * dh..][..dh];
            f64::from(args.scale) * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>()
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
    let log_sum = if seen == 0 { f64::NEG_INFINITY } else { max + sum.ln() };
    (scores.iter().map(|x| (x - log_sum).exp()).collect(), log_sum)
}

/// What dropout multiplies a probability by.
fn kept(args: &Attention, s: usize, head: usize, i: usize, j: usize) -> f64 {
    let Some(dropout) = args.dropout else {
        return 1.0;
    };
    let row = rng::row(rng::key(dropout.streams[s], head as u64), i as u64);
    let dropped = rng::bits(row, j as u32) < rng::threshold(dropout.p);
    if dropped { 0.0 } else { 1.0 / (1.0 - f64::from(dropout.p)) }
}
