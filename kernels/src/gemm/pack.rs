//! Copies of operands in the order the inner kernel walks them.

use super::View;

/// Fills `out` (`depth` rows of `columns`) with the `depth x width` matrix `b`, zero beyond `width`.
pub fn panel(b: View, depth: usize, width: usize, columns: usize, out: &mut [f32]) {
    if b.col == 1 {
        for (p, row) in out.chunks_exact_mut(columns).enumerate().take(depth) {
            row[..width].copy_from_slice(&b.data[p * b.row..][..width]);
            row[width..].fill(0.0);
        }
        return;
    }
    for j in 0..columns {
        let column = out[j..].iter_mut().step_by(columns).take(depth);
        if j >= width {
            column.for_each(|x| *x = 0.0);
        } else if b.row == 1 {
            column.zip(&b.data[j * b.col..][..depth]).for_each(|(x, &y)| *x = y);
        } else {
            column.enumerate().for_each(|(p, x)| *x = b.data[p * b.row + j * b.col]);
        }
    }
}

/// Fills `out` with the `rows x depth` matrix `a` in groups of `group` rows, each group as `depth` runs of its rows'
/// elements; zero beyond the last row.
pub fn rows(a: View, rows: usize, depth: usize, group: usize, out: &mut [f32]) {
    for (g, out) in out.chunks_exact_mut(group * depth).enumerate().take(rows.div_ceil(group)) {
        let a = a.at(g * group, 0);
        let count = group.min(rows - g * group);
        panel(View { data: a.data, row: a.col, col: a.row }, depth, count, group, out);
    }
}
