//! The paper's connector (§3.1): stacked frames, sinusoidal positions, pre-norm Transformer layers, projection. With the default
//! sizes and HuBERT-large below it has 52,487,168 parameters before the projection.

use std::rc::Rc;

use candle_core::{DType, Device, Tensor};

use super::layer::Layer;
use super::{ConnectorConfig, NORM_EPS};
use crate::autograd::{Result, Tape, Var};
use crate::model::weights::{self, Loader};
use crate::nn::{self, Dropout, LayerNorm, Linear, Packed, SeqLens};

pub struct Transformer {
    k: usize,
    stack: Linear,
    stack_norm: LayerNorm,
    dropout: Dropout,
    layers: Vec<Rc<Layer>>,
    norm: LayerNorm,
    proj: Linear,
    recompute: bool,
}

impl Transformer {
    pub fn build(loader: &Loader, config: &ConnectorConfig, d: usize, d_llm: usize) -> weights::Result<Self> {
        let width = config.width;
        let stack = loader.dense("stack", config.stack * d, width)?;
        let stack_norm = loader.layer_norm("stack_norm", width, NORM_EPS)?;
        let layers = (0..config.layers)
            .map(|i| Ok(Rc::new(Layer::build(&loader.pp("layers").pp(i), config)?)))
            .collect::<weights::Result<_>>()?;
        Ok(Self {
            k: config.stack,
            stack,
            stack_norm,
            dropout: Dropout::new(config.dropout, &loader.registered("positions.dropout")),
            layers,
            norm: loader.layer_norm("norm", width, NORM_EPS)?,
            proj: loader.dense("proj", width, d_llm)?,
            recompute: config.recompute,
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed) -> Result<(Var, Packed)> {
        let (x, seq) = nn::stack_frames(tape, x, &packed.seq, self.k)?;
        let packed = packed.with_seq(seq);
        let x = self.stack_norm.forward(tape, &self.stack.forward(tape, &x)?)?;
        let positions = sinusoids(&packed.seq, x.dims()[1], x.tensor().dtype(), x.tensor().device())?;
        let x = nn::add(tape, &x, &tape.constant(positions))?;
        let mut x = self.dropout.forward(tape, &x, &packed)?;
        for layer in &self.layers {
            x = if self.recompute {
                let (layer, packed) = (Rc::clone(layer), packed.clone());
                let block = move |tape: &Tape, x: &[Var]| Ok(vec![layer.forward(tape, &x[0], &packed)?]);
                tape.recompute(&[&x], block)?.swap_remove(0)
            } else {
                layer.forward(tape, &x, &packed)?
            };
        }
        let x = self.norm.forward(tape, &x)?;
        Ok((self.proj.forward(tape, &x)?, packed))
    }
}

/// Interleaved sine and cosine positions, from 0 in each sequence: `[t, d]`.
fn sinusoids(seq: &SeqLens, d: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let longest = seq.max_len();
    let mut table = vec![0f32; longest * d];
    for (position, row) in table.chunks_exact_mut(d.max(1)).enumerate() {
        for (i, value) in row.iter_mut().enumerate() {
            let angle = position as f64 * (-((i - i % 2) as f64) / d as f64 * 10_000f64.ln()).exp();
            *value = if i % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
        }
    }
    let mut rows = Vec::with_capacity(seq.total() * d);
    seq.lens().for_each(|len| rows.extend_from_slice(&table[..len * d]));
    Ok(Tensor::from_vec(rows, (seq.total(), d), device)?.to_dtype(dtype)?)
}
