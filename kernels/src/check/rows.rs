//! Ops on rows and on single numbers.

use super::Check;
use crate::activation::{self, Activation};
use crate::{Result, cross_entropy, elementwise, embedding, layer_norm, rms_norm, rope, row_normalize, rows, swiglu};

/// Rows that are and are not whole packs of 16 bytes, narrow and wide.
const SHAPES: [(usize, usize); 4] = [(67, 1024), (5, 4096), (33, 100), (300, 7)];

pub(super) fn run(check: &mut Check) {
    for shape in SHAPES {
        check.attempt("norms", |check| norms(check, shape));
        check.attempt("pointwise ops", |check| pointwise(check, shape));
    }
    check.attempt("moves of rows", moves);
    check.attempt("rope", rotary);
    check.attempt("cross_entropy", classes);
}

fn norms(check: &mut Check, (t, d): (usize, usize)) -> Result<()> {
    let at = |what: &str| format!("{what} [{t}, {d}]");
    let (x, xs) = check.random(1, &[t, d])?;
    let (w, ws) = check.random(2, &[d])?;
    let (b, bs) = check.random(3, &[d])?;
    let (g, gs) = check.random(4, &[t, d])?;
    let (y, rstd) = rms_norm::forward(&x, &w, 1e-6)?;
    check.compare("rms_norm", at("y"), &y, &rms_norm::reference::forward(&xs, &ws, 1e-6).0)?;
    let (dx, dw) = rms_norm::backward(&g, &x, &w, &rstd, true)?;
    let (want_dx, want_dw) = rms_norm::reference::backward(&gs, &xs, &ws, 1e-6);
    check.compare("rms_norm", at("dx"), &dx, &want_dx)?;
    if let Some(dw) = dw {
        check.compare("rms_norm", at("dw"), &dw, &want_dw)?;
    }
    let plus = |want: Vec<f64>| want.iter().zip(&gs).map(|(dx, g)| dx + g).collect::<Vec<_>>();
    let (sum, y, rstd) = rms_norm::forward_added(&x, &g, &w, 1e-6)?;
    let sums = super::host(&sum)?;
    check.compare("rms_norm", at("sum"), &sum, &elementwise::reference::add(&xs, &gs))?;
    check.compare("rms_norm", at("y of a sum"), &y, &rms_norm::reference::forward(&sums, &ws, 1e-6).0)?;
    let (dx, _) = rms_norm::backward_added(&g, Some(&g), &sum, &w, &rstd, false)?;
    check.compare("rms_norm", at("dx of a sum"), &dx, &plus(rms_norm::reference::backward(&gs, &sums, &ws, 1e-6).0))?;
    let (sum, y, stats) = layer_norm::forward_added(&x, &g, &w, &b, 1e-5)?;
    check.compare("layer_norm", at("sum"), &sum, &elementwise::reference::add(&xs, &gs))?;
    check.compare("layer_norm", at("y of a sum"), &y, &layer_norm::reference::forward(&sums, &ws, &bs, 1e-5).0)?;
    let (dx, _) = layer_norm::backward_added(&g, Some(&g), &sum, &w, &stats, false)?;
    let want = plus(layer_norm::reference::backward(&gs, &sums, &ws, 1e-5).0);
    check.compare("layer_norm", at("dx of a sum"), &dx, &want)?;
    let (y, stats) = layer_norm::forward(&x, &w, &b, 1e-5)?;
    check.compare("layer_norm", at("y"), &y, &layer_norm::reference::forward(&xs, &ws, &bs, 1e-5).0)?;
    let (dx, dwb) = layer_norm::backward(&g, &x, &w, &stats, true)?;
    let (want_dx, want_dw, want_db) = layer_norm::reference::backward(&gs, &xs, &ws, 1e-5);
    check.compare("layer_norm", at("dx"), &dx, &want_dx)?;
    if let Some((dw, db)) = dwb {
        check.compare("layer_norm", at("dw"), &dw, &want_dw)?;
        check.compare("layer_norm", at("db"), &db, &want_db)?;
    }
    let (y, stats) = layer_norm::forward_gelu(&x, &w, &b, 1e-5)?;
    let (z, none) = (layer_norm::reference::forward(&xs, &ws, &bs, 1e-5).0, vec![0.0; d]);
    let want = activation::reference::forward(&z, &none, Activation::Gelu);
    check.compare("layer_norm", at("gelu of y"), &y, &want)?;
    let (dx, _) = layer_norm::backward_gelu(&g, &x, &w, &b, &stats, false)?;
    let before = activation::reference::backward(&gs, &z, &none, Activation::Gelu);
    let (want, _, _) = layer_norm::reference::backward(&before, &xs, &ws, 1e-5);
    check.compare("layer_norm", at("dx through gelu"), &dx, &want)?;
    let (y, norms) = row_normalize::forward(&x)?;
    check.compare("row_normalize", at("y"), &y, &row_normalize::reference::forward(&xs, d))?;
    let dx = row_normalize::backward(&g, &x, &norms)?;
    check.compare("row_normalize", at("dx"), &dx, &row_normalize::reference::backward(&gs, &xs, d))
}

fn pointwise(check: &mut Check, (t, d): (usize, usize)) -> Result<()> {
    let at = |what: &str| format!("{what} [{t}, {d}]");
    let (x, xs) = check.random(1, &[t, d])?;
    let (b, bs) = check.random(2, &[d])?;
    let (g, gs) = check.random(3, &[t, d])?;
    for (kind, name) in [(Activation::Gelu, "gelu"), (Activation::Relu, "relu")] {
        let y = activation::forward(&x, Some(&b), kind)?;
        check.compare("activation", at(name), &y, &activation::reference::forward(&xs, &bs, kind))?;
        let dx = activation::backward(&g, &x, Some(&b), kind)?;
        let want = activation::reference::backward(&gs, &xs, &bs, kind);
        check.compare("activation", at(&format!("{name} dx")), &dx, &want)?;
    }
    check.compare("column_sum", at("sum"), &activation::column_sum(&x)?, &activation::reference::column_sum(&xs, d))?;
    check.compare("swiglu", at("y"), &swiglu::forward(&x, &g)?, &swiglu::reference::forward(&xs, &gs))?;
    let (dg, du) = swiglu::backward(&g, &x, &g)?;
    let (want_dg, want_du) = swiglu::reference::backward(&gs, &xs, &gs);
    check.compare("swiglu", at("dgate"), &dg, &want_dg)?;
    check.compare("swiglu", at("dup"), &du, &want_du)?;
    check.compare("add", at("sum"), &elementwise::add(&x, &g)?, &elementwise::reference::add(&xs, &gs))?;
    check.compare("scale", at("product"), &elementwise::scale(&x, 0.3)?, &elementwise::reference::scale(&xs, 0.3))
}

fn moves(check: &mut Check) -> Result<()> {
    let (d, vocab) = (520, 50);
    let (table, tables) = check.random(1, &[vocab, d])?;
    let ids: Vec<u32> = (0..90).map(|i| i * 13 % vocab as u32).collect();
    let (g, gs) = check.random(2, &[ids.len(), d])?;
    let y = embedding::forward(&table, &ids)?;
    check.compare("embedding", "rows", &y, &embedding::reference::forward(&tables, &ids, d))?;
    let grad = embedding::backward(&g, &ids, vocab)?;
    check.compare("embedding", "dtable", &grad, &embedding::reference::backward(&gs, &ids, d, vocab))?;
    let index: Vec<(u32, u32)> = (0..90).map(|i| (i % 2, i * 7 % 50)).collect();
    let (other, others) = check.random(3, &[60, d])?;
    let y = rows::gather(&[&table, &other], &index)?;
    check.compare("gather", "rows", &y, &rows::reference::gather(&[&tables, &others], &index, d))?;
    let grad = rows::scatter(&g, &index, 1, 60)?;
    check.compare("scatter", "drows", &grad, &rows::reference::scatter(&gs, &index, 1, 60, d))?;
    let (with, withs) = check.random(4, &[d])?;
    let y = rows::replace(&table, &[0, 7, 49], &with)?;
    check.compare("replace", "rows", &y, &rows::reference::replace(&tables, &[0, 7, 49], &withs))
}

fn rotary(check: &mut Check) -> Result<()> {
    for (t, h, dh) in [(70, 4, 128), (33, 3, 64), (5, 2, 10)] {
        let inv_freq: Vec<f32> = (0..dh / 2).map(|j| 10000f32.powf(-2.0 * j as f32 / dh as f32)).collect();
        let (x, xs) = check.random(1, &[t, h, dh])?;
        let positions: Vec<u32> = (0..t as u32).map(|i| i * 7 % 500).collect();
        let table = rope::Table::new(&inv_freq, 500)?;
        let at: Vec<f64> = positions.iter().map(|&p| f64::from(p)).collect();
        let inv_freq: Vec<f64> = inv_freq.iter().map(|&f| f64::from(f)).collect();
        let y = rope::forward(&x, &positions, &table)?;
        check.compare("rope", format!("y [{t}, {h}, {dh}]"), &y, &rope::reference::forward(&xs, &at, &inv_freq))?;
        let dx = rope::backward(&x, &positions, &table)?;
        check.compare("rope", format!("dx [{t}, {h}, {dh}]"), &dx, &rope::reference::backward(&xs, &at, &inv_freq))?;
    }
    Ok(())
}

fn classes(check: &mut Check) -> Result<()> {
    let (n, c) = (33, 5);
    let (logits, values) = check.random(1, &[n, c])?;
    let labels: Vec<u32> = (0..n as u32).map(|i| i * 3 % c as u32).collect();
    let (sums, p) = cross_entropy::forward(&logits, &labels)?;
    let correct = cross_entropy::reference::correct(&values, c, &labels) as f64;
    let want = [cross_entropy::reference::forward(&values, c, &labels), correct];
    check.compare("cross_entropy", "loss, right answers", &sums, &want)?;
    let grad = cross_entropy::backward(&p, &labels)?;
    check.compare("cross_entropy", "dlogits", &grad, &cross_entropy::reference::backward(&values, c, &labels))
}
