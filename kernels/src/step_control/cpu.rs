//! The decision on the CPU.

use super::{LEN, Rule};

/// What [`super::decide`] gives.
pub fn decide(sum_of_squares: f64, steps: &mut f64, rule: Rule) -> [f64; LEN] {
    let norm = sum_of_squares.sqrt();
    let go = norm.is_finite();
    if go {
        *steps += 1.0;
    }
    let limited = rule.clip_norm / (norm + 1e-6);
    let scale = if rule.clip_norm > 0.0 && limited < 1.0 { limited } else { 1.0 };
    let left = |beta: f64| 1.0 - beta.powf(*steps);
    [f64::from(u8::from(go)), scale, *steps, left(rule.beta1), left(rule.beta2), norm]
}
