//! The decision, defined.

use super::Rule;

/// Whether a step by gradients of this norm is taken, and their scale.
pub fn decide(norm: f64, rule: Rule) -> (bool, f64) {
    let scale = if rule.clip_norm > 0.0 { (rule.clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    (norm.is_finite(), scale)
}
