//! From samples to features: strided convolutions and the projection.

use std::rc::Rc;

use echat_kernels::conv1d::out_seqlens;

use super::config::{FeatExtractNorm, HubertConfig};
use crate::autograd::{Group, Param, Result, Tape, Var};
use crate::model::weights::{self, Init, Loader};
use crate::nn::{Activation, ChannelNorm, Dropout, LayerNorm, Linear, Packed, SeqLens, activate, conv1d};

/// PyTorch's default; transformers leaves the convolutions' norms at it whatever `layer_norm_eps` says.
const CONV_NORM_EPS: f64 = 1e-5;

/// One convolution, its norm if it has one, and the activation.
#[derive(Debug)]
pub(super) struct ConvLayer {
    weight: Param,
    bias: Option<Param>,
    norm: Norm,
    kernel: usize,
    stride: usize,
    activation: Activation,
}

#[derive(Debug)]
enum Norm {
    None,
    Channel(ChannelNorm),
    Layer(LayerNorm),
}

impl ConvLayer {
    /// The convolutions of `feature_extractor`.
    pub fn stack(config: &HubertConfig, loader: &Loader) -> weights::Result<Vec<Rc<Self>>> {
        let loader = loader.group(Group::EncoderFrontend).pp("feature_extractor.conv_layers");
        (0..config.conv_dim.len()).map(|i| Ok(Rc::new(Self::load(config, i, &loader.pp(i))?))).collect()
    }

    fn load(config: &HubertConfig, i: usize, loader: &Loader) -> weights::Result<Self> {
        let c_in = if i == 0 { 1 } else { config.conv_dim[i - 1] };
        let (c_out, kernel) = (config.conv_dim[i], config.conv_kernel[i]);
        let weight = loader.conv("conv.weight", c_out, c_in, kernel, Init::kaiming_normal(c_in * kernel))?;
        let bias = config.conv_bias.then(|| loader.param("conv.bias", &[c_out], Init::ZEROS)).transpose()?;
        let norm = match config.feat_extract_norm {
            FeatExtractNorm::Layer => Norm::Layer(loader.layer_norm("layer_norm", c_out, CONV_NORM_EPS)?),
            FeatExtractNorm::Group if i == 0 => {
                Norm::Channel(loader.channel_norm("layer_norm", c_out, CONV_NORM_EPS)?)
            }
            FeatExtractNorm::Group => Norm::None,
        };
        let (stride, activation) = (config.conv_stride[i], config.conv_activation());
        Ok(Self { weight, bias, norm, kernel, stride, activation })
    }

    /// The sequences `forward` makes of `seq`.
    pub fn out_seq(&self, seq: &SeqLens) -> SeqLens {
        out_seqlens(seq, self.kernel, self.stride)
    }

    /// x `[t, c_in]` packed by `seq` → `[t', c_out]` packed by [`ConvLayer::out_seq`].
    pub fn forward(&self, tape: &Tape, x: &Var, seq: &SeqLens) -> Result<Var> {
        let weight = tape.param(&self.weight);
        let bias = self.bias.as_ref().map(|b| tape.param(b));
        if let Norm::None = self.norm {
            let (y, _) = conv1d(tape, x, &weight, None, seq, self.kernel, self.stride)?;
            return activate(tape, &y, bias.as_ref(), self.activation);
        }
        let (y, seq) = conv1d(tape, x, &weight, bias.as_ref(), seq, self.kernel, self.stride)?;
        let y = match &self.norm {
            Norm::None => y,
            Norm::Channel(norm) => norm.forward(tape, &y, &seq)?,
            Norm::Layer(norm) if self.activation == Activation::Gelu => return norm.gelu(tape, &y),
            Norm::Layer(norm) => norm.forward(tape, &y)?,
        };
        activate(tape, &y, None, self.activation)
    }
}

/// `feature_projection`: norm if configured, linear, dropout.
#[derive(Debug)]
pub(super) struct Projection {
    norm: Option<LayerNorm>,
    linear: Linear,
    dropout: Dropout,
}

impl Projection {
    pub fn load(config: &HubertConfig, loader: &Loader) -> weights::Result<Self> {
        let loader = loader.pp("feature_projection");
        let c = config.conv_dim[config.conv_dim.len() - 1];
        let norm = config
            .feat_proj_layer_norm
            .then(|| loader.layer_norm("layer_norm", c, config.layer_norm_eps))
            .transpose()?;
        let init = Init::Normal { std: config.initializer_range };
        let linear = loader.linear("projection", c, config.hidden_size, true, init)?;
        let dropout = Dropout::new(config.feat_proj_dropout, &loader.registered("dropout"));
        Ok(Self { norm, linear, dropout })
    }

    /// x `[t, c]` → `[t, d]`.
    pub fn forward(&self, tape: &Tape, x: &Var, frames: &Packed) -> Result<Var> {
        let x = match &self.norm {
            Some(norm) => norm.forward(tape, x)?,
            None => x.clone(),
        };
        self.dropout.forward(tape, &self.linear.forward(tape, &x)?, frames)
    }
}
