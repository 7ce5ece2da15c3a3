//! Sum of squares, defined.

/// `Σ x²`.
pub fn sum_of_squares(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}
