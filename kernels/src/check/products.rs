//! Ops around matrix products.

use super::Check;
use crate::{Result, SeqLens, conv1d, linear, linear_cross_entropy, pos_conv, weight_norm};

pub(super) fn run(check: &mut Check) {
    for (t, i, o) in [(67, 256, 128), (130, 100, 33), (1, 64, 64), (9, 7, 5)] {
        check.attempt("linear", |check| dense(check, t, i, o));
    }
    for (c_in, c_out, kernel, stride) in [(1, 24, 10, 5), (16, 24, 3, 2), (9, 5, 2, 2)] {
        check.attempt("conv1d", |check| strided(check, conv1d::Sizes { c_in, c_out, kernel, stride }));
    }
    for (d, groups, kernel) in [(32, 4, 16), (12, 3, 5)] {
        check.attempt("pos_conv", |check| positional(check, pos_conv::Sizes { d, groups, kernel }));
    }
    check.attempt("linear_cross_entropy", head);
}

fn dense(check: &mut Check, t: usize, i: usize, o: usize) -> Result<()> {
    let at = |what: &str| format!("{what} [{t}, {i}] x [{o}, {i}]");
    let ((x, xs), (w, ws)) = (check.random(1, &[t, i])?, check.random(2, &[o, i])?);
    let ((b, bs), (g, gs)) = (check.random(3, &[o])?, check.random(4, &[t, o])?);
    let y = linear::forward(&x, &w, Some(&b))?;
    check.compare("linear", at("y"), &y, &linear::reference::forward(&xs, &ws, Some(&bs), i))?;
    let dx = linear::backward_input(&g, &w)?;
    check.compare("linear", at("dx"), &dx, &linear::reference::backward_input(&gs, &ws, i, o))?;
    let dw = linear::backward_weight(&g, &x)?;
    check.compare("linear", at("dw"), &dw, &linear::reference::backward_weight(&gs, &xs, i, o))?;
    check.compare("linear", at("db"), &linear::backward_bias(&g)?, &linear::reference::backward_bias(&gs, o))
}

fn strided(check: &mut Check, s: conv1d::Sizes) -> Result<()> {
    let seq = SeqLens::from_lens([50, 3, 0, 121]);
    let (out, window) = (conv1d::out_seqlens(&seq, s.kernel, s.stride), s.kernel * s.c_in);
    let at = |what: &str| format!("{what} {} x {} to {}, stride {}", s.kernel, s.c_in, s.c_out, s.stride);
    let ((x, xs), (w, ws)) = (check.random(1, &[seq.total(), s.c_in])?, check.random(2, &[s.c_out, window])?);
    let ((b, bs), (g, gs)) = (check.random(3, &[s.c_out])?, check.random(4, &[out.total(), s.c_out])?);
    let (y, _) = conv1d::forward(&x, &w, Some(&b), &seq, s.kernel, s.stride)?;
    check.compare("conv1d", at("y"), &y, &conv1d::reference::forward(&xs, &ws, Some(&bs), &seq, s))?;
    let dx = conv1d::backward_input(&g, &w, &seq, s.kernel, s.stride)?;
    check.compare("conv1d", at("dx"), &dx, &conv1d::reference::backward_input(&gs, &ws, &seq, s))?;
    let dw = conv1d::backward_weight(&g, &x, &seq, s.kernel, s.stride)?;
    check.compare("conv1d", at("dw"), &dw, &conv1d::reference::backward_weight(&gs, &xs, &seq, s))
}

fn positional(check: &mut Check, s: pos_conv::Sizes) -> Result<()> {
    let seq = SeqLens::from_lens([40, 1, 0, 19]);
    let at = |what: &str| format!("{what} {} channels, {} groups, kernel {}", s.d, s.groups, s.kernel);
    let ((x, xs), (w, ws)) = (check.random(1, &[seq.total(), s.d])?, check.random(2, &[s.d, s.width(), s.kernel])?);
    let ((b, bs), (g, gs)) = (check.random(3, &[s.d])?, check.random(4, &[seq.total(), s.d])?);
    let y = pos_conv::forward(&x, &w, &b, &seq, s.groups)?;
    check.compare("pos_conv", at("y"), &y, &pos_conv::reference::forward(&xs, &ws, &bs, &seq, s))?;
    let dx = pos_conv::backward_input(&g, &w, &seq, s.groups)?;
    check.compare("pos_conv", at("dx"), &dx, &pos_conv::reference::backward_input(&gs, &ws, &seq, s))?;
    let dw = pos_conv::backward_weight(&g, &x, &seq, s.groups, s.kernel)?;
    check.compare("pos_conv", at("dw"), &dw, &pos_conv::reference::backward_weight(&gs, &xs, &seq, s))?;
    let (gain, gains) = check.random(5, &[1, 1, s.kernel])?;
    let normed = weight_norm::forward(&w, &gain)?;
    check.compare("weight_norm", at("w"), &normed, &weight_norm::reference::forward(&ws, &gains))?;
    let (grad, grads) = check.random(6, &[s.d, s.width(), s.kernel])?;
    let (dv, dg) = weight_norm::backward(&grad, &w, &gain)?;
    let (want_dv, want_dg) = weight_norm::reference::backward(&grads, &ws, &gains);
    check.compare("weight_norm", at("dv"), &dv, &want_dv)?;
    check.compare("weight_norm", at("dg"), &dg, &want_dg)
}

fn head(check: &mut Check) -> Result<()> {
    let (t, v, d) = (60, 1003, 72);
    let ((x, xs), (w, ws)) = (check.random(1, &[t, d])?, check.random(2, &[v, d])?);
    let rows: Vec<u32> = (0..t as u32).filter(|i| i % 3 != 1).collect();
    let labels: Vec<u32> = rows.iter().map(|i| i * 31 % v as u32).collect();
    let needs = linear_cross_entropy::Needs { hidden: true, weight: true };
    let loss = linear_cross_entropy::forward(&x, &w, &rows, &labels, needs)?;
    let want = linear_cross_entropy::reference::forward(&xs, &ws, d, &rows, &labels);
    check.compare("linear_cross_entropy", "loss", &loss.sums.narrow(0, 0, 1)?, &[want])?;
    let (want_hidden, want_weight) = linear_cross_entropy::reference::backward(&xs, &ws, d, &rows, &labels);
    for (what, got, want) in [("dhidden", &loss.d_hidden, want_hidden), ("dweight", &loss.d_weight, want_weight)] {
        if let Some(got) = got {
            check.compare("linear_cross_entropy", what, got, &want)?;
        }
    }
    Ok(())
}
