//! Weight normalisation, defined.

/// The norm of each tap.
fn norms(v: &[f64], k: usize) -> Vec<f64> {
    (0..k).map(|tap| v.iter().skip(tap).step_by(k).map(|x| x * x).sum::<f64>().sqrt()).collect()
}

/// `w = g v / ‖v‖` per tap.
pub fn forward(v: &[f64], g: &[f64]) -> Vec<f64> {
    let n = norms(v, g.len());
    v.iter().enumerate().map(|(i, x)| g[i % g.len()] * x / n[i % g.len()]).collect()
}

/// The gradients of v and g.
pub fn backward(grad: &[f64], v: &[f64], g: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let k = g.len();
    let n = norms(v, k);
    let dg: Vec<f64> =
        (0..k).map(|tap| (tap..v.len()).step_by(k).map(|i| grad[i] * v[i]).sum::<f64>() / n[tap]).collect();
    let dv = (0..v.len())
        .map(|i| {
            let tap = i % k;
            g[tap] / n[tap] * grad[i] - g[tap] * dg[tap] * v[i] / (n[tap] * n[tap])
        })
        .collect();
    (dv, dg)
}
