//! Column sums in the order of rows, in f64: the weight is small (d × d/groups × k) and read once a step.

fn column_sums(k: usize, rows: impl Iterator<Item = (f32, f32)>) -> Vec<f64> {
    let mut sums = vec![0f64; k];
    for (i, (a, b)) in rows.enumerate() {
        sums[i % k] += f64::from(a) * f64::from(b);
    }
    sums
}

pub fn forward(v: &[f32], g: &[f32]) -> Vec<f32> {
    let squares = column_sums(g.len(), v.iter().map(|&x| (x, x)));
    let scale: Vec<f32> = squares.iter().zip(g).map(|(s, &g)| (f64::from(g) / s.sqrt()) as f32).collect();
    v.chunks_exact(g.len()).flat_map(|row| row.iter().zip(&scale).map(|(x, s)| x * s)).collect()
}

/// With n = ‖v_k‖ and u = v / n: dg = ⟨dw, u⟩, dv = g/n (dw - u dg).
pub fn backward(grad: &[f32], v: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let k = g.len();
    let norms: Vec<f64> = column_sums(k, v.iter().map(|&x| (x, x))).iter().map(|s| s.sqrt()).collect();
    let products = column_sums(k, grad.iter().copied().zip(v.iter().copied()));
    let dg: Vec<f64> = products.iter().zip(&norms).map(|(p, n)| p / n).collect();
    let dv = grad.iter().zip(v).enumerate().map(|(i, (&dw, &x))| {
        let (n, tap) = (norms[i % k], i % k);
        (f64::from(g[tap]) / n * (f64::from(dw) - f64::from(x) / n * dg[tap])) as f32
    });
    (dv.collect(), dg.into_iter().map(|d| d as f32).collect())
}
