//! `[optimizer]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// The rule that turns gradients into updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (`torch.optim.AdamW`).
    #[default]
    Adamw,
    /// Stochastic gradient descent with momentum (`torch.optim.SGD`; weight decay is added to the gradient).
    Sgd,
}

/// `[optimizer]`: how parameters are updated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// `adamw` or `sgd`.
    pub kind: OptimizerKind,
    /// Peak learning rate; the schedule multiplies it.
    pub lr: f64,
    /// Peak learning rates of single groups, where they differ from `lr`.
    pub groups: BTreeMap<String, f64>,
    /// AdamW: decay rates of the first and second moments.
    pub betas: [f64; 2],
    /// AdamW: added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Also decay norms and biases (parameters of one dimension or none).
    pub decay_1d: bool,
    /// SGD: momentum; 0 keeps no state.
    pub momentum: f64,
    /// Largest global gradient norm; gradients above it are scaled down. 0 does not clip.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            lr: 1e-4,
            groups: BTreeMap::new(),
            betas: [0.9, 0.98],
            eps: 1e-8,
            weight_decay: 0.01,
            decay_1d: false,
            momentum: 0.0,
            clip_norm: 1.0,
        }
    }
}

impl OptimizerConfig {
    /// The peak learning rate of `group`.
    pub fn peak_lr(&self, group: &str) -> f64 {
        self.groups.get(group).copied().unwrap_or(self.lr)
    }

    /// Errors on values outside their range and on groups that are not among `known`.
    pub fn validate(&self, known: &[&str]) -> Result<()> {
        check("optimizer.lr", self.lr, "a positive number", |v| v > 0.0)?;
        for (name, &lr) in &self.groups {
            if !known.contains(&name.as_str()) {
                let nearest =
                    known.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
                let nearest = nearest.filter(|n| strsim::jaro_winkler(name, n) > 0.7).map(|n| (*n).to_owned());
                return Err(Error::Group { name: name.clone(), nearest, known: known.join(", ") });
            }
            check(&format!("optimizer.groups.{name}"), lr, "a number of at least 0", |v| v >= 0.0)?;
        }
        for (i, &beta) in self.betas.iter().enumerate() {
            check(&format!("optimizer.betas[{i}]"), beta, "a number in [0, 1)", |v| (0.0..1.0).contains(&v))?;
        }
        check("optimizer.eps", self.eps, "a positive number", |v| v > 0.0)?;
        check("optimizer.weight_decay", self.weight_decay, "a number of at least 0", |v| v >= 0.0)?;
        check("optimizer.momentum", self.momentum, "a number in [0, 1)", |v| (0.0..1.0).contains(&v))?;
        check("optimizer.clip_norm", self.clip_norm, "a number of at least 0", |v| v >= 0.0)
    }
}

/// Errors unless `value` is finite and `fits`.
pub(super) fn check(key: &str, value: f64, expected: &'static str, fits: impl Fn(f64) -> bool) -> Result<()> {
    if value.is_finite() && fits(value) {
        return Ok(());
    }
    Err(Error::Setting { key: key.to_owned(), value, expected })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GROUPS: [&str; 3] = ["encoder", "connector", "emotion"];

    fn parse(text: &str) -> OptimizerConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn groups_have_learning_rates_of_their_own() {
        let config = parse("lr = 1e-3\n[groups]\nencoder = 1e-5\n");
        config.validate(&GROUPS).unwrap();
        assert_eq!(config.peak_lr("encoder"), 1e-5);
        assert_eq!(config.peak_lr("connector"), 1e-3);
    }

    #[test]
    fn an_unknown_group_is_an_error_naming_the_nearest() {
        let error = parse("[groups]\nencodr = 1e-5\n").validate(&GROUPS).unwrap_err().to_string();
        assert_eq!(
            error,
            "optimizer.groups.encodr: no such group (did you mean \"encoder\"?); groups are encoder, connector, emotion"
        );
        let error = parse("[groups]\nxyz = 1e-5\n").validate(&GROUPS).unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn values_outside_their_range_are_errors_naming_the_key() {
        let cases = [
            ("lr = 0.0", "optimizer.lr"),
            ("lr = nan", "optimizer.lr"),
            ("betas = [0.9, 1.0]", "optimizer.betas[1]"),
            ("eps = 0.0", "optimizer.eps"),
            ("weight_decay = -1.0", "optimizer.weight_decay"),
            ("momentum = 1.0", "optimizer.momentum"),
            ("clip_norm = inf", "optimizer.clip_norm"),
            ("[groups]\nencoder = -1.0", "optimizer.groups.encoder"),
        ];
        for (text, key) in cases {
            let error = parse(text).validate(&GROUPS).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key} = ")), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(toml::from_str::<OptimizerConfig>("beta = 0.9").is_err());
    }
}
