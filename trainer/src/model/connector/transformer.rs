//! The paper's connector (§3.1): stacked frames, sinusoidal positions, pre-norm Transformer layers, projection. With the default
//! sizes and HuBERT-large below it has 52,487,168 parameters before the projection.

use std::cell::RefCell;
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
    positions: Positions,
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
            positions: Positions::default(),
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
        let x = nn::add(tape, &x, &self.positions.of(tape, &x, &packed.seq)?)?;
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

/// Interleaved sine and cosine positions: a table that stays where it is computed with.
#[derive(Default)]
struct Positions(RefCell<Option<Tensor>>);

impl Positions {
    /// From 0 in each sequence, for `x` `[t, d]`: `[t, d]`.
    fn of(&self, tape: &Tape, x: &Var, seq: &SeqLens) -> Result<Var> {
        let (d, like, longest) = (x.dims()[1], x.tensor(), seq.max_len());
        let mut table = self.0.borrow_mut();
        let table = match &*table {
            Some(table) if table.dims()[0] >= longest => table,
            _ => table.insert(sinusoids(longest.next_power_of_two(), d, like.dtype(), like.device())?),
        };
        let positions: Vec<u32> = seq.lens().flat_map(|len| 0..len as u32).collect();
        nn::embedding(tape, &tape.constant(table.clone()), &positions)
    }
}

/// `[rows, d]`.
fn sinusoids(rows: usize, d: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut table = vec![0f32; rows * d];
    for (position, row) in table.chunks_exact_mut(d.max(1)).enumerate() {
        for (i, value) in row.iter_mut().enumerate() {
            let angle = position as f64 * (-((i - i % 2) as f64) / d as f64 * 10_000f64.ln()).exp();
            *value = if i % 2 == 0 { angle.sin() } else { angle.cos() } as f32;
        }
    }
    Ok(Tensor::from_vec(table, (rows, d), device)?.to_dtype(dtype)?)
}
