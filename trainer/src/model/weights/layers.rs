//! The layers every model is made of, from a loader.

use super::{Init, Loader, Result};
use crate::nn::{ChannelNorm, LayerNorm, Linear, RmsNorm};

impl Loader<'_> {
    /// `{name}.weight` `[o, i]` and, if asked for, `{name}.bias` `[o]`, which begins at zero.
    pub fn linear(&self, name: &str, i: usize, o: usize, bias: bool, init: Init) -> Result<Linear> {
        let scope = self.pp(name);
        let weight = scope.param("weight", &[o, i], init)?;
        let bias = bias.then(|| scope.param("bias", &[o], Init::ZEROS)).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// [`Loader::linear`] with a bias, both beginning as PyTorch's `nn.Linear`.
    pub fn dense(&self, name: &str, i: usize, o: usize) -> Result<Linear> {
        let (scope, init) = (self.pp(name), Init::torch_default(i));
        let weight = scope.param("weight", &[o, i], init)?;
        Ok(Linear { weight, bias: Some(scope.param("bias", &[o], init)?) })
    }

    /// `{name}.weight` and `{name}.bias`, `[d]`.
    pub fn layer_norm(&self, name: &str, d: usize, eps: f64) -> Result<LayerNorm> {
        let scope = self.pp(name);
        let (weight, bias) = (scope.param("weight", &[d], Init::ONES)?, scope.param("bias", &[d], Init::ZEROS)?);
        Ok(LayerNorm { weight, bias, eps })
    }

    /// `{name}.weight` and `{name}.bias`, `[c]`.
    pub fn channel_norm(&self, name: &str, c: usize, eps: f64) -> Result<ChannelNorm> {
        let LayerNorm { weight, bias, eps } = self.layer_norm(name, c, eps)?;
        Ok(ChannelNorm { weight, bias, eps })
    }

    /// `{name}.weight`, `[d]`.
    pub fn rms_norm(&self, name: &str, d: usize, eps: f64) -> Result<RmsNorm> {
        Ok(RmsNorm { weight: self.pp(name).param("weight", &[d], Init::ONES)?, eps })
    }
}
