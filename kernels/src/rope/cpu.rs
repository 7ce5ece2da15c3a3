//! Rotary embedding on the CPU.

use super::Table;
use crate::parallel::{for_rows, piece_rows};
use crate::simd::run;

/// Turns each row's heads by its position's angles, `back` by their negatives. Positions lie within the table.
pub fn turn(x: &[f32], positions: &[u32], table: &Table, back: bool) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let width = x.len() / positions.len().max(1);
    let sign = if back { -1.0 } else { 1.0 };
    for_rows(&mut y, width, piece_rows(width), |first, y| {
        let rows = x[first * width..].chunks_exact(width).zip(&positions[first..]);
        run(
            #[inline(always)]
            || {
                for (y, (x, &position)) in y.chunks_exact_mut(width).zip(rows) {
                    let start = position as usize * table.half;
                    let angles = start..start + table.half;
                    turn_row(x, y, &table.cos[angles.clone()], &table.sin[angles], sign);
                }
            },
        );
    });
    y
}

#[inline(always)]
fn turn_row(x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
        let ((x1, x2), (y1, y2)) = (x.split_at(half), y.split_at_mut(half));
        let inputs = x1.iter().zip(x2).zip(cos.iter().zip(sin));
        for (((&x1, &x2), (&c, &s)), (y1, y2)) in inputs.zip(y1.iter_mut().zip(y2)) {
            *y1 = x1 * c - x2 * s * sign;
            *y2 = x2 * c + x1 * s * sign;
        }
    }
}
