use super::product::{Cut, Product};
use super::{
    Mask, Scratch, TILE_K, TILE_Q, View, by_head, fill_unseen, gather, padded, scatter, take, transpose, with_scratch,
};
use crate::attention::{Attention, Heads};
use crate::simd::LANES;
use crate::{parallel, simd};

/// The gradient of the output and what the forward pass took and gave.
pub struct Saved<'a> {
    pub grad: &'a [f32],
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub out: &'a [f32],
    pub lse: &'a [f32],
}

/// The gradients of q, k and v.
pub fn backward(saved: &Saved, heads: Heads, args: &Attention) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let Heads { h, hk, dh } = heads;
    let work: usize = args.q_seq.lens().zip(args.k_seq.lens()).map(|(lq, lk)| lq * lk * h * dh).sum();
    let (mut dq, mut dk, mut dv) = (vec![0.0; saved.q.len()], vec![0.0; saved.k.len()], vec![0.0; saved.v.len()]);
    let mut dq_parts = by_head(&mut dq, h, dh, args.q_seq.lens()).into_iter();
    let kv_parts =
        by_head(&mut dk, hk, dh, args.k_seq.lens()).into_iter().zip(by_head(&mut dv, hk, dh, args.k_seq.lens()));
    let tasks: Vec<Task> =
        kv_parts.map(|(dk, dv)| Task { dq: dq_parts.by_ref().take(h / hk).collect(), dk, dv }).collect();
    parallel::for_each(tasks, work, |task, into| {
        with_scratch(|scratch| key_head(saved, heads, args, (task / hk, task % hk), into, scratch));
    });
    (dq, dk, dv)
}

/// Where the gradients of one key head of one sequence go: those of its query heads' rows, of its keys and values.
struct Task<'a> {
    dq: Vec<Vec<&'a mut [f32]>>,
    dk: Vec<&'a mut [f32]>,
    dv: Vec<&'a mut [f32]>,
}

fn key_head(
    saved: &Saved,
    heads: Heads,
    args: &Attention,
    (sequence, kv_head): (usize, usize),
    mut task: Task,
    scratch: &mut Scratch,
) {
    let Heads { h, hk, dh } = heads;
    let (group, keys) = (h / hk, args.k_seq.range(sequence));
    gather(&mut scratch.k, saved.k, keys.clone(), (kv_head, hk, dh), 1.0);
    gather(&mut scratch.v, saved.v, keys.clone(), (kv_head, hk, dh), 1.0);
    take(&mut scratch.dk, keys.len() * padded(dh)).fill(0.0);
    take(&mut scratch.dv, keys.len() * padded(dh)).fill(0.0);
    for (g, dq) in task.dq.iter_mut().enumerate() {
        let view = View::new(args, sequence, kv_head * group + g);
        for (tile, dq) in dq.chunks_mut(TILE_Q).enumerate() {
            query_tile(saved, heads, &view, tile * TILE_Q, dq, scratch);
        }
    }
    scatter(&scratch.dk, 1.0, &mut task.dk);
    scatter(&scratch.dv, 1.0, &mut task.dv);
}

/// Fills the gradients of a tile of queries and adds to those of the keys and values they see.
fn query_tile(saved: &Saved, heads: Heads, view: &View, q0: usize, dq_rows: &mut [&mut [f32]], scratch: &mut Scratch) {
    let Heads { h, dh, .. } = heads;
    let wide = padded(dh);
    let len = dq_rows.len();
    let columns = padded(len);
    let start = view.args.q_seq.range(view.sequence).start + q0;
    let rows = start..start + len;
    let head = (view.head, h, dh);
    let q = &*gather(&mut scratch.q, saved.q, rows.clone(), head, view.args.scale);
    let q_columns = &*transpose(&mut scratch.q_columns, q, dh);
    let grad = &*gather(&mut scratch.grad, saved.grad, rows.clone(), head, 1.0);
    let grad_columns = &*transpose(&mut scratch.grad_columns, grad, dh);
    let out = &*gather(&mut scratch.out, saved.out, rows, head, 1.0);
    let lse = &saved.lse[view.head * view.args.q_seq.total() + start..][..len];
    let softmax = Softmax::new(grad, out, lse, wide, view.mask(q0));
    let dq = take(&mut scratch.dq, len * wide);
    dq.fill(0.0);
    let seen = view.seen(q0 + len - 1);
    for k0 in (0..seen).step_by(TILE_K) {
        let len_k = TILE_K.min(seen - k0);
        let shift = view.shift(q0, k0, len_k);
        let keys = k0 * wide..(k0 + len_k) * wide;
        let (k, v) = (&scratch.k[keys.clone()], &scratch.v[keys.clone()]);
        let p = take(&mut scratch.scores, len_k * columns);
        let ds = take(&mut scratch.d_scores, len_k * columns);
        let cut = shift.map_or(Cut::None, Cut::Columns);
        for (a, b, c) in [(k, q_columns, &mut *p), (v, grad_columns, &mut *ds)] {
            Product::<false> { m: len_k, n: columns, k: dh, a, lda: wide, b, ldb: columns, cut }.store(c, columns);
        }
        fill_unseen(p, columns, shift, f32::NEG_INFINITY);
        fill_unseen(ds, columns, shift, 0.0);
        softmax.backward(p, ds, columns, k0);
        let cut = shift.map_or(Cut::None, Cut::DepthFrom);
        for (a, b, c) in [(&*p, grad, &mut scratch.dv), (&*ds, q, &mut scratch.dk)] {
            Product::<false> { m: len_k, n: wide, k: len, a, lda: columns, b, ldb: wide, cut }
                .add(&mut c[keys.clone()], wide);
        }
        let cut = shift.map_or(Cut::None, Cut::DepthTo);
        Product::<true> { m: len, n: wide, k: len_k, a: ds, lda: columns, b: k, ldb: wide, cut }.add(dq, wide);
    }
    scatter(dq, view.args.scale, dq_rows);
}

/// The softmax of a tile's queries, as the forward pass left it.
struct Softmax {
    lse: [f32; TILE_Q],
    /// The gradient's dot product with the output: the mean of the probabilities' gradients.
    mean: [f32; TILE_Q],
    mask: Option<Mask>,
}

impl Softmax {
    fn new(grad: &[f32], out: &[f32], lse: &[f32], wide: usize, mask: Option<Mask>) -> Self {
        // Infinity makes every probability 0: of a query that sees no key, and of the columns beyond the last query.
        let mut this = Self { lse: [f32::INFINITY; TILE_Q], mean: [0.0; TILE_Q], mask };
        for (to, lse) in this.lse.iter_mut().zip(lse) {
            *to = if *lse == f32::NEG_INFINITY { f32::INFINITY } else { *lse };
        }
        simd::run(
            #[inline(always)]
            || {
                for (mean, (g, o)) in this.mean.iter_mut().zip(grad.chunks_exact(wide).zip(out.chunks_exact(wide))) {
                    *mean = simd::dot(g, o);
                }
            },
        );
        this
    }

    /// Turns scores `p` and the gradients of the kept probabilities `ds`, both [keys, columns] from key `k0`, into kept
    /// probabilities and the gradients of the scores.
    fn backward(&self, p: &mut [f32], ds: &mut [f32], columns: usize, k0: usize) {
        simd::run(
            #[inline(always)]
            || {
                let (lse, mean) = (self.lse.as_chunks::<LANES>().0, self.mean.as_chunks::<LANES>().0);
                let rows = p.chunks_exact_mut(columns).zip(ds.chunks_exact_mut(columns));
                for (j, (p, ds)) in rows.enumerate() {
                    let blocks = p.as_chunks_mut().0.iter_mut().zip(ds.as_chunks_mut().0);
                    for (block, (p, ds)) in blocks.enumerate() {
                        let keep = match &self.mask {
                            Some(mask) => mask.factors(block, (k0 + j) as u32),
                            None => [1.0; LANES],
                        };
                        backward_block(p, ds, &lse[block], &mean[block], &keep);
                    }
                }
            },
        );
    }
}

#[inline(always)]
fn backward_block(
    p: &mut [f32; LANES],
    ds: &mut [f32; LANES],
    lse: &[f32; LANES],
    mean: &[f32; LANES],
    keep: &[f32; LANES],
) {
    for i in 0..LANES {
        let probability = simd::exp(p[i] - lse[i]);
        ds[i] = probability * (ds[i] * keep[i] - mean[i]);
        p[i] = probability * keep[i];
    }
}
