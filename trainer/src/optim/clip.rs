//! Clipping by the global gradient norm.

/// What every gradient is multiplied by so that their global L2 norm does not exceed `max_norm`:
/// `min(1, max_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_`. A non-finite `norm` gives NaN or 0: check it first.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    let coefficient = max_norm / (norm + 1e-6);
    // Not `f64::min`, which would turn NaN into 1.
    if coefficient > 1.0 { 1.0 } else { coefficient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_gradient_is_left_alone() {
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(0.0, 1.0), 1.0);
    }

    #[test]
    fn a_large_gradient_is_scaled_as_in_torch() {
        assert_eq!(clip_coefficient(4.0, 1.0), 1.0 / 4.000001);
        // At the bound itself torch shrinks by its 1e-6 too.
        assert_eq!(clip_coefficient(1.0, 1.0), 1.0 / 1.000001);
    }

    #[test]
    fn nan_stays_nan() {
        assert!(clip_coefficient(f64::NAN, 1.0).is_nan());
        assert_eq!(clip_coefficient(f64::INFINITY, 1.0), 0.0);
    }
}
