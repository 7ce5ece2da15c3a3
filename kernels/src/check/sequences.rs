//! Ops that know where sequences begin and end.

use candle_core::DType;

use super::{Check, ragged, streams};
use crate::attention::{self, Attention, Dropout, Path};
use crate::{Result, SeqLens, channel_norm, dropout, layer_sum, mean_pool, stack};

pub(super) fn run(check: &mut Check) {
    check.attempt("pools", pools);
    check.attempt("layer_sum", layers);
    check.attempt("dropout", drops);
    check.attempt("channel_norm", norms);
    attention(check, None);
    #[cfg(feature = "flash-attn")]
    check.attempt("flash_attention", flash);
}

/// Attention by the paths that `check.device` has and does not take.
pub(super) fn other_paths(check: &mut Check) {
    for &path in attention::paths(check.device).iter().skip(1) {
        if path == Path::Wgmma {
            check.attempt("attention", warpgroups);
        }
        attention(check, Some(path));
    }
}

/// By `path`, or that which the device takes.
fn attention(check: &mut Check, path: Option<Path>) {
    let lens = || SeqLens::from_lens([65, 1, 0, 200, 127]);
    let mut attend = |heads, causal, queries: &SeqLens, keys: &SeqLens, drops| {
        check.attempt("attention", |check| attend(check, heads, causal, [queries, keys], drops, path));
    };
    for (heads, causal) in [((2, 2, 64), false), ((4, 2, 128), true), ((1, 1, 64), true), ((2, 1, 80), false)] {
        attend(heads, causal, &lens(), &lens(), false);
    }
    attend((2, 2, 64), false, &lens(), &lens(), true);
    // A few new queries over a cache.
    attend((4, 4, 128), true, &SeqLens::from_lens([1, 3, 70]), &SeqLens::from_lens([90, 3, 129]), false);
}

fn pools(check: &mut Check) -> Result<()> {
    let (seq, d) = (ragged(), 1000);
    let (x, xs) = check.random(1, &[seq.total(), d])?;
    check.compare(
        "mean_pool",
        "means",
        &mean_pool::forward(&x, &seq)?,
        &mean_pool::reference::forward(&xs, &seq, d),
    )?;
    let (g, gs) = check.random(2, &[seq.count(), d])?;
    let dx = mean_pool::backward(&g, &seq)?;
    check.compare("mean_pool", "dx", &dx, &mean_pool::reference::backward(&gs, &seq, d))?;
    for k in [2, 3] {
        let (y, stacked) = stack::forward(&x, &seq, k)?;
        check.compare("stack", format!("by {k}"), &y, &stack::reference::forward(&xs, &seq, d, k))?;
        let (g, gs) = check.random(3, &[stacked.total(), k * d])?;
        let dx = stack::backward(&g, &seq, k)?;
        check.compare("stack", format!("dx by {k}"), &dx, &stack::reference::backward(&gs, &seq, d, k))?;
    }
    Ok(())
}

fn layers(check: &mut Check) -> Result<()> {
    let (seq, d, count) = (ragged(), 264, 7);
    let made = (0..count).map(|i| check.random(i, &[seq.total(), d])).collect::<Result<Vec<_>>>()?;
    let (layers, values): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let (raw, raws) = check.random_as(20, &[count as usize], DType::F32)?;
    let (sum, means) = layer_sum::forward(&layers, &raw, Some(&seq))?;
    check.compare("layer_sum", "sum", &sum, &layer_sum::reference::forward(&values, &raws))?;
    if let Some(means) = means {
        let want: Vec<f64> = values.iter().flat_map(|x| mean_pool::reference::forward(x, &seq, d)).collect();
        check.compare("layer_sum", "means", &means, &want)?;
    }
    let (g, gs) = check.random(21, &[seq.total(), d])?;
    let needs = layer_sum::Needs { layers: true, weights: true };
    let grads = layer_sum::backward(Some(&g), None, &layers, &raw, Some(&seq), needs)?;
    let (want_layers, want_raw) = layer_sum::reference::backward(&gs, &values, &raws);
    for (i, (got, want)) in grads.layers.iter().flatten().zip(&want_layers).enumerate() {
        check.compare("layer_sum", format!("dlayer {i}"), got, want)?;
    }
    match &grads.weights {
        Some(got) => check.compare("layer_sum", "dweights", got, &want_raw),
        None => Ok(()),
    }
}

fn drops(check: &mut Check) -> Result<()> {
    let (seq, d) = (ragged(), 77);
    let ((x, xs), (r, rs)) = (check.random(1, &[seq.total(), d])?, check.random(2, &[seq.total(), d])?);
    let want = dropout::reference::apply(&xs, 0.1, &seq, &streams(&seq));
    check.compare("dropout", "y", &dropout::apply(&x, 0.1, &seq, &streams(&seq))?, &want)?;
    let want: Vec<f64> = want.iter().zip(rs).map(|(x, r)| x + r).collect();
    check.compare("add_dropout", "y", &dropout::add_dropout(&r, &x, 0.1, &seq, &streams(&seq))?, &want)
}

fn norms(check: &mut Check) -> Result<()> {
    let (seq, d) = (ragged(), 40);
    let ((x, xs), (w, ws)) = (check.random(1, &[seq.total(), d])?, check.random(2, &[d])?);
    let ((b, bs), (g, gs)) = (check.random(3, &[d])?, check.random(4, &[seq.total(), d])?);
    // One row has no variance: eps counts.
    let (y, stats) = channel_norm::forward(&x, &w, &b, &seq, 1e-2)?;
    check.compare("channel_norm", "y", &y, &channel_norm::reference::forward(&xs, &ws, &bs, &seq, 1e-2).0)?;
    let (dx, dwb) = channel_norm::backward(&g, &x, &w, &stats, &seq, true)?;
    let (want_dx, want_dw, want_db) = channel_norm::reference::backward(&gs, &xs, &ws, &seq, 1e-2);
    check.compare("channel_norm", "dx", &dx, &want_dx)?;
    match dwb {
        Some((dw, db)) => {
            check.compare("channel_norm", "dw", &dw, &want_dw)?;
            check.compare("channel_norm", "db", &db, &want_db)
        }
        None => Ok(()),
    }
}

/// The products that attention is made of where it has [`Path::Wgmma`].
fn warpgroups(check: &mut Check) -> Result<()> {
    for (d, n) in [(64, 128), (128, 64)] {
        let ((a, of_a), (b, of_b)) = (check.random(1, &[64, d])?, check.random(2, &[n, d])?);
        let (dots, sums) = attention::warpgroup_products(&a, &b)?;
        let dot = |i: usize| (0..d).map(|k| of_a[i / n * d + k] * of_b[i % n * d + k]).sum::<f64>();
        check.compare_within("attention", format!("wgmma along rows of {d}"), &dots, &gather(64 * n, dot), 1e-5)?;
        let rounded = super::host(&dots.to_dtype(DType::BF16)?)?;
        let sum = |i: usize| (0..n).map(|k| rounded[i / d * n + k] * of_b[k * d + i % d]).sum::<f64>();
        check.compare_within("attention", format!("wgmma down rows of {d}"), &sums, &gather(64 * d, sum), 1e-5)?;
    }
    Ok(())
}

fn gather(count: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..count).map(f).collect()
}

fn attend(
    check: &mut Check,
    heads: (usize, usize, usize),
    causal: bool,
    [q_seq, k_seq]: [&SeqLens; 2],
    drops: bool,
    path: Option<Path>,
) -> Result<()> {
    let (h, hk, dh) = heads;
    let streams = streams(q_seq);
    let dropout = drops.then_some(Dropout { p: 0.1, streams: &streams });
    let args = Attention { q_seq, k_seq, causal, scale: 1.0 / (dh as f32).sqrt(), dropout };
    let (q, qs) = check.random(1, &[q_seq.total(), h, dh])?;
    let (k, ks) = check.random(2, &[k_seq.total(), hk, dh])?;
    let (v, vs) = check.random(3, &[k_seq.total(), hk, dh])?;
    let (g, gs) = check.random(4, &[q_seq.total(), h, dh])?;
    let run = || {
        let (out, lse) = attention::forward(&q, &k, &v, &args)?;
        let (dq, dk, dv) = attention::backward(&g, &q, &k, &v, &out, &lse, &args)?;
        Result::Ok([out, dq, dk, dv])
    };
    let (want_out, _) = attention::reference::forward(&qs, &ks, &vs, heads, &args);
    let (want_dq, want_dk, want_dv) = attention::reference::backward(&gs, &qs, &ks, &vs, heads, &args);
    let want = [want_out, want_dq, want_dk, want_dv];
    let mask = if causal { "causal" } else { "full" };
    let (got, by) = match path {
        Some(path) => (attention::with_path(path, run)?, format!(", by {path}")),
        None => (run()?, String::new()),
    };
    for ((what, got), want) in ["out", "dq", "dk", "dv"].iter().zip(got).zip(want) {
        let dropout = if drops { ", dropout" } else { "" };
        check.compare("attention", format!("{what} {h}/{hk} heads of {dh}, {mask}{dropout}{by}"), &got, &want)?;
    }
    Ok(())
}

/// What candle-flash-attn makes where no backward pass follows, of bf16 alone.
#[cfg(feature = "flash-attn")]
fn flash(check: &mut Check) -> Result<()> {
    if check.dtype != DType::BF16 {
        return Ok(());
    }
    let q_seq = SeqLens::from_lens([65, 1, 0, 200, 127]);
    // As many keys; more of them, for few new queries; fewer or none, so that the first queries see nothing.
    for k_seq in [[65, 1, 0, 200, 127], [90, 300, 7, 200, 129], [0, 1, 5, 64, 130]].map(SeqLens::from_lens) {
        for (heads, causal) in [(2, 2, 32), (4, 1, 40), (2, 2, 64), (3, 3, 80), (2, 1, 96), (4, 2, 128)]
            .into_iter()
            .flat_map(|heads| [(heads, false), (heads, true)])
        {
            let (h, hk, dh) = heads;
            let args =
                Attention { q_seq: &q_seq, k_seq: &k_seq, causal, scale: 1.0 / (dh as f32).sqrt(), dropout: None };
            let (q, qs) = check.random(1, &[q_seq.total(), h, dh])?;
            let (k, ks) = check.random(2, &[k_seq.total(), hk, dh])?;
            let (v, vs) = check.random(3, &[k_seq.total(), hk, dh])?;
            let (want, _) = attention::reference::forward(&qs, &ks, &vs, heads, &args);
            let mask = if causal { "causal" } else { "full" };
            let what = format!("out {h}/{hk} heads of {dh}, {mask}, {} keys", k_seq.total());
            check.compare("attention by candle-flash-attn", what, &attention::infer(&q, &k, &v, &args)?, &want)?;
        }
    }
    Ok(())
}
