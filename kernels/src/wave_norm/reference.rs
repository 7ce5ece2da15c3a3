//! Wave normalisation, defined.

/// One utterance.
pub fn forward(samples: &[i16], normalize: bool) -> Vec<f64> {
    let x: Vec<f64> = samples.iter().map(|&x| f64::from(x) / 32768.0).collect();
    if !normalize {
        return x;
    }
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    x.iter().map(|x| (x - mean) / (variance + 1e-7).sqrt()).collect()
}
