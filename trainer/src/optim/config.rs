//! `[optimizer]`.

use std::collections::BTreeMap;

use super::{Error, Result};
use crate::autograd::Group;
use crate::config::{choice, section};

choice! {
    /// The rule that turns gradients into updates.
    pub enum OptimizerKind {
        /// Adam with decoupled weight decay (`torch.optim.AdamW`).
        Adamw = "adamw",
        /// Stochastic gradient descent with momentum (`torch.optim.SGD`: weight decay is added to the gradient).
        Sgd = "sgd",
    }
}

section! {
    /// How parameters are updated.
    pub struct OptimizerConfig {
        /// The rule.
        pub kind: OptimizerKind = OptimizerKind::Adamw,
        /// Peak learning rate; the schedule multiplies it.
        pub lr: f64 = 1e-4,
        /// Peak learning rates of single groups, where they differ from `lr`.
        pub groups: BTreeMap<String, f64> = BTreeMap::new(),
        /// AdamW: decay rate of the first moment.
        pub beta1: f64 = 0.9,
        /// AdamW: decay rate of the second moment.
        pub beta2: f64 = 0.98,
        /// AdamW: added to the root of the second moment.
        pub eps: f64 = 1e-8,
        /// Weight decay.
        pub weight_decay: f64 = 0.01,
        /// Decay norms and biases (parameters of one dimension or none) too.
        pub decay_1d: bool = false,
        /// SGD: momentum; 0 keeps no state.
        pub momentum: f64 = 0.0,
        /// Largest global gradient norm; gradients above it are scaled down. 0 does not clip.
        pub clip_norm: f64 = 1.0,
    }
}

impl OptimizerConfig {
    /// The peak learning rate of `group`. The encoder's front-end goes with the encoder unless it has one of its own.
    pub fn peak_lr(&self, group: Group) -> f64 {
        let own = self.groups.get(group.name());
        let encoder = || self.groups.get(Group::Encoder.name()).filter(|_| group == Group::EncoderFrontend);
        own.or_else(encoder).copied().unwrap_or(self.lr)
    }

    /// Errors on values outside their range and on groups that do not exist.
    pub fn validate(&self) -> Result<()> {
        check("optimizer.lr", self.lr, "a positive number", |v| v > 0.0)?;
        for (name, &lr) in &self.groups {
            let key = format!("optimizer.groups.{name}");
            if !Group::ALL.iter().any(|g| g.name() == name) {
                return Err(Error::Setting { key, problem: no_such_group(name) });
            }
            check(&key, lr, "a number of at least 0", |v| v >= 0.0)?;
        }
        check("optimizer.beta1", self.beta1, "a number in [0, 1)", |v| (0.0..1.0).contains(&v))?;
        check("optimizer.beta2", self.beta2, "a number in [0, 1)", |v| (0.0..1.0).contains(&v))?;
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
    Err(Error::Setting { key: key.to_owned(), problem: format!("expected {expected}, found {value}") })
}

fn no_such_group(name: &str) -> String {
    let known = Group::ALL.map(Group::name);
    let alike = |group: &str| strsim::jaro_winkler(name, group);
    match known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b))) {
        Some(nearest) if alike(nearest) >= 0.75 => format!("no such group; did you mean `{nearest}`?"),
        _ => format!("no such group; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> OptimizerConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn groups_have_learning_rates_of_their_own() {
        let config = parse("lr = 1e-3\n[groups]\nencoder = 1e-5\n");
        config.validate().unwrap();
        assert_eq!(config.peak_lr(Group::Encoder), 1e-5);
        assert_eq!(config.peak_lr(Group::EncoderFrontend), 1e-5);
        assert_eq!(config.peak_lr(Group::Connector), 1e-3);
        let config = parse("[groups]\nencoder = 1e-5\nencoder_frontend = 0.0\n");
        assert_eq!(config.peak_lr(Group::EncoderFrontend), 0.0);
    }

    #[test]
    fn an_unknown_group_is_an_error_naming_the_nearest() {
        let error = parse("[groups]\nencodr = 1e-5\n").validate().unwrap_err().to_string();
        assert_eq!(error, "`optimizer.groups.encodr`: no such group; did you mean `encoder`?");
        let error = parse("[groups]\nxyz = 1e-5\n").validate().unwrap_err().to_string();
        assert_eq!(
            error,
            "`optimizer.groups.xyz`: no such group; there are encoder_frontend, encoder, connector, emotion, decoder"
        );
    }

    #[test]
    fn values_outside_their_range_are_errors_naming_the_key() {
        let cases = [
            ("lr = 0.0", "optimizer.lr"),
            ("lr = nan", "optimizer.lr"),
            ("beta1 = -0.1", "optimizer.beta1"),
            ("beta2 = 1.0", "optimizer.beta2"),
            ("eps = 0.0", "optimizer.eps"),
            ("weight_decay = -1.0", "optimizer.weight_decay"),
            ("momentum = 1.0", "optimizer.momentum"),
            ("clip_norm = inf", "optimizer.clip_norm"),
            ("[groups]\nencoder = -1.0", "optimizer.groups.encoder"),
        ];
        for (text, key) in cases {
            let error = parse(text).validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}`: expected ")), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(toml::from_str::<OptimizerConfig>("beta = 0.9").is_err());
    }
}
