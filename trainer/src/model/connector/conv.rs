//! Two convolutions of kernel 3, stride 2, padding 1, each with its activation, then a linear layer: a quarter of the frame rate.

use candle_core::Tensor;

use super::ConnectorConfig;
use crate::autograd::{Param, Result, Tape, Var};
use crate::model::weights::{self, Init, Loader};
use crate::nn::{self, Activation, Linear, Packed, SeqLens};

const KERNEL: usize = 3;
const STRIDE: usize = 2;
const PADDING: usize = 1;

pub struct Conv {
    convs: [(Param, Param); 2],
    proj: Linear,
    activation: Activation,
}

impl Conv {
    pub fn build(loader: &Loader, config: &ConnectorConfig, d: usize, d_llm: usize) -> weights::Result<Self> {
        let conv = |i: usize, input: usize| -> weights::Result<(Param, Param)> {
            let (scope, init) = (loader.pp("convs").pp(i), Init::torch_default(KERNEL * input));
            let weight = scope.conv("weight", config.width, input, KERNEL, init)?;
            Ok((weight, scope.param("bias", &[config.width], init)?))
        };
        Ok(Self {
            convs: [conv(0, d)?, conv(1, config.width)?],
            proj: loader.dense("proj", config.width, d_llm)?,
            activation: config.activation.kernel(),
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<(Var, Packed)> {
        let (mut x, mut seq) = (x.clone(), packed.seq.clone());
        for (weight, bias) in &self.convs {
            let (padded, padded_seq) = pad(tape, &x, &seq)?;
            let (y, out) = nn::conv1d(tape, &padded, &tape.param(weight), None, &padded_seq, KERNEL, STRIDE)?;
            x = nn::activate(tape, &y, Some(&tape.param(bias)), self.activation)?;
            seq = out;
        }
        Ok((self.proj.forward(tape, &x)?, packed.with_seq(seq)))
    }
}

/// One row of zeros before and after each sequence that has rows.
fn pad(tape: &Tape, x: &Var, seq: &SeqLens) -> Result<(Var, SeqLens)> {
    let zeros = tape.constant(Tensor::zeros((1, x.dims()[1]), x.tensor().dtype(), x.tensor().device())?);
    let mut index = Vec::with_capacity(seq.total() + 2 * PADDING * seq.count());
    for range in seq.ranges().filter(|r| !r.is_empty()) {
        index.extend([(1, 0); PADDING]);
        index.extend(range.map(|row| (0, row as u32)));
        index.extend([(1, 0); PADDING]);
    }
    let padded = SeqLens::from_lens(seq.lens().map(|len| if len == 0 { 0 } else { len + 2 * PADDING }));
    Ok((nn::gather_rows(tape, &[x, &zeros], index)?, padded))
}
