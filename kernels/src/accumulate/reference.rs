//! The definition, in f64.

/// `sum + x`.
pub fn add(sum: &[f64], x: &[f64]) -> Vec<f64> {
    sum.iter().zip(x).map(|(sum, x)| sum + x).collect()
}
