//! Rotary position embedding in GPT-NeoX's "rotate half" layout (Su et al. 2021), as LLaMA, Baichuan and Qwen use it:
//! element `j` of the first half of a head turns with element `j` of the second by the angle `position · inv_freq[j]`.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;

use crate::tensor::{read, write};
use crate::{Error, Result};

const OP: &str = "rope";

/// Cosines and sines of every position a model may see, f32.
///
/// The angle is the f32 product of position and frequency, as transformers' rotary embeddings have it; its cosine and
/// sine are taken in f64.
#[derive(Clone, Debug)]
pub struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    positions: usize,
    /// Cosines and then sines where kernels see them, once they were wanted there.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    device: Arc<OnceLock<Tensor>>,
}

impl Table {
    /// From the inverse frequency of each pair of a head (`dh / 2` of them), for positions `0..max_positions`.
    ///
    /// Errors: no frequency, or one that is not finite.
    pub fn new(inv_freq: &[f32], max_positions: usize) -> Result<Self> {
        if inv_freq.is_empty() || !inv_freq.iter().all(|f| f.is_finite()) {
            let message = format!("inverse frequencies must be finite and at least one, got {inv_freq:?}");
            return Err(Error::Value { op: OP, message });
        }
        let angles = || (0..max_positions).flat_map(|p| inv_freq.iter().map(move |f| f64::from(p as f32 * f)));
        Ok(Self {
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
            half: inv_freq.len(),
            positions: max_positions,
            #[cfg(any(feature = "cuda", feature = "emulate"))]
            device: Arc::default(),
        })
    }

    /// The number of positions the table covers.
    pub fn max_positions(&self) -> usize {
        self.positions
    }

    /// The width of the heads it turns: twice the number of frequencies.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }
}

/// Turns every head of row `i` of `x [t, h, dh]` by the angles of `positions[i]`.
///
/// Errors: `dh` other than the table's, a number of positions other than `t`, a position beyond the table.
pub fn forward(x: &Tensor, positions: &[u32], table: &Table) -> Result<Tensor> {
    turn(x, positions, table, false)
}

/// The gradient for `x`: `grad` turned back.
pub fn backward(grad: &Tensor, positions: &[u32], table: &Table) -> Result<Tensor> {
    turn(grad, positions, table, true)
}

fn turn(x: &Tensor, positions: &[u32], table: &Table, back: bool) -> Result<Tensor> {
    match *x.dims() {
        [t, _, dh] if t == positions.len() && dh == table.head_dim() => {}
        _ => {
            let expected = format!("[{} positions, heads, {}]", positions.len(), table.head_dim());
            return Err(Error::Shape { op: OP, what: "x", expected, got: x.shape().clone() });
        }
    }
    if let Some(position) = positions.iter().find(|&&p| p as usize >= table.positions) {
        let message = format!("position {position} is beyond the table of {} positions", table.positions);
        return Err(Error::Value { op: OP, message });
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(x) {
        return cuda::turn(x, positions, table, back);
    }
    write(OP, cpu::turn(&read(OP, x)?, positions, table, back), x.shape(), x.dtype())
}
