//! Random initialisation, by name: a parameter's draws depend on the seed and its name alone.

use echat_kernels::rng;
use rayon::prelude::*;

/// How a parameter begins when no checkpoint holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element this.
    Constant(f32),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `[low, high)`.
    Uniform {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
}

impl Init {
    /// Zeros: biases.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// Ones: norm weights.
    pub const ONES: Self = Self::Constant(1.0);
    /// Normal(0, 0.02): linear layers and embeddings (Hugging Face's `initializer_range`).
    pub const LINEAR: Self = Self::Normal { std: 0.02 };

    /// Kaiming normal, for a ReLU-like activation: `std = √(2/fan_in)`.
    pub fn kaiming_normal(fan_in: usize) -> Self {
        Self::Normal { std: (2.0 / fan_in as f64).sqrt() }
    }

    /// Uniform in `±√(6/(fan_in + fan_out))` (`xavier_uniform_`).
    pub fn xavier_uniform(fan_in: usize, fan_out: usize) -> Self {
        let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
        Self::Uniform { low: -limit, high: limit }
    }

    /// Uniform in `±1/√fan_in`: PyTorch's default for linear layers, convolutions and their biases.
    pub fn torch_default(fan_in: usize) -> Self {
        let limit = 1.0 / (fan_in as f64).sqrt();
        Self::Uniform { low: -limit, high: limit }
    }

    /// `count` elements of the parameter `name` in a run with `seed`.
    pub fn draw(self, seed: u64, name: &str, count: usize) -> Vec<f32> {
        if let Self::Constant(value) = self {
            return vec![value; count];
        }
        let stream = rng::key(rng::key(rng::key(0, seed), rng::site("init")), rng::site(name));
        let mut values = vec![0.0; count];
        values.par_chunks_mut(2).with_min_len(1 << 12).enumerate().for_each(|(i, pair)| {
            let drawn = self.pair(rng::key(stream, i as u64));
            pair.copy_from_slice(&drawn[..pair.len()]);
        });
        values
    }

    /// Two independent draws from one key.
    fn pair(self, key: u64) -> [f32; 2] {
        let (u, v) = (rng::uniform(key), rng::uniform(rng::key(key, 1)));
        match self {
            Self::Constant(value) => [value; 2],
            Self::Uniform { low, high } => [(low + (high - low) * u) as f32, (low + (high - low) * v) as f32],
            Self::Normal { std } => {
                // Box-Muller; 1 - u is never 0.
                let (radius, angle) = (std * (-2.0 * (1.0 - u).ln()).sqrt(), std::f64::consts::TAU * v);
                [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Init;

    #[test]
    fn draws_have_their_moments_and_depend_on_seed_and_name_alone() {
        let n = 200_001;
        let x = Init::Normal { std: 0.5 }.draw(1, "a", n);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let var = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 5e-3 && (var - 0.25).abs() < 5e-3, "mean {mean}, variance {var}");
        let u = Init::Uniform { low: -2.0, high: 4.0 }.draw(1, "a", n);
        assert!(u.iter().all(|v| (-2.0..=4.0).contains(v)));
        let mean = u.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        assert!((mean - 1.0).abs() < 2e-2, "mean {mean}");
        assert_eq!(x, Init::Normal { std: 0.5 }.draw(1, "a", n));
        assert_ne!(x[..8], Init::Normal { std: 0.5 }.draw(1, "b", 8)[..]);
        assert_ne!(x[..8], Init::Normal { std: 0.5 }.draw(2, "a", 8)[..]);
        assert_eq!(Init::ONES.draw(0, "w", 3), [1.0; 3]);
    }
}
