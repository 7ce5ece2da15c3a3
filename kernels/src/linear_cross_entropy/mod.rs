//! The output head and its softmax cross-entropy in one: logits exist for labelled rows alone, a few rows at a time, and
//! turn into their own gradients where they lie. The whole [t, v] never exists.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod reference;

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result, tensor};

const OP: &str = "linear_cross_entropy";

/// Which gradients [`forward`] is to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// That of the hidden states.
    pub hidden: bool,
    /// That of the head's weight.
    pub weight: bool,
}

/// The loss of a batch and its gradients.
#[derive(Clone, Debug)]
pub struct Loss {
    /// [2] f64 on the operands' device: the sum over labelled rows of `-ln p(label)`, not finite if some logit is not; and how many labelled rows have their largest
    /// logit (the first of equals) at the label.
    pub sums: Tensor,
    /// Labelled rows.
    pub count: u64,
    /// The gradient of `loss_sum` by the hidden states [t, d], zero where unlabelled, in their dtype; if needed.
    pub d_hidden: Option<Tensor>,
    /// The gradient of `loss_sum` by the weight [v, d] f32; if needed.
    pub d_weight: Option<Tensor>,
}

/// The most logits held at a time, unless 16 rows are more.
pub const CHUNK_LOGITS: usize = 1 << 22;

/// How many rows have logits at the same time in a vocabulary of `v`: 16 to 512, about [`CHUNK_LOGITS`] / v.
pub const fn chunk_rows(v: usize) -> usize {
    let rows = CHUNK_LOGITS / if v == 0 { 1 } else { v };
    if rows < 16 {
        16
    } else if rows > 512 {
        512
    } else {
        rows
    }
}

/// The most logits a GPU holds at a time: half a gigabyte as f32.
const GPU_CHUNK_LOGITS: usize = 1 << 27;

/// [`chunk_rows`] on a GPU, of `rows` labelled ones.
pub fn gpu_chunk_rows(v: usize, rows: usize) -> usize {
    (GPU_CHUNK_LOGITS / v.max(1)).clamp(16, rows.max(16))
}

/// The cross-entropy of `labels` under the logits `hidden[rows] weight^T`, for `hidden` [t, d] and `weight` [v, d], with
/// the gradients `needs` names. `rows` are the labelled rows of `hidden`, `labels` their classes.
///
/// A row or label out of range is an error; a loss that is not finite is returned as it is.
pub fn forward(hidden: &Tensor, weight: &Tensor, rows: &[u32], labels: &[u32], needs: Needs) -> Result<Loss> {
    let (t, d) = tensor::dims2(OP, "hidden", hidden)?;
    let (v, _) = tensor::dims2(OP, "weight", weight)?;
    tensor::expect_shape(OP, "weight", weight, &[v, d])?;
    let wrong = |message: String| Err(Error::Value { op: OP, message });
    if d == 0 {
        return wrong("hidden states of width 0".into());
    }
    if rows.len() != labels.len() {
        return wrong(format!("{} rows, {} labels", rows.len(), labels.len()));
    }
    if let Some(row) = rows.iter().find(|&&row| row as usize >= t) {
        return wrong(format!("row {row} is not one of {t}"));
    }
    if let Some(label) = labels.iter().find(|&&label| label as usize >= v) {
        return wrong(format!("label {label} is not in a vocabulary of {v}"));
    }
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(hidden) {
        return cuda::forward(hidden, weight, rows, labels, needs, [t, d, v]);
    }
    let result = cpu::forward(&tensor::read(OP, hidden)?, &tensor::read(OP, weight)?, d, rows, labels, needs);
    Ok(Loss {
        sums: Tensor::from_vec(vec![result.loss_sum, result.correct as f64], 2, &Device::Cpu)?,
        count: rows.len() as u64,
        d_hidden: result.d_hidden.map(|g| tensor::write(OP, g, (t, d), hidden.dtype())).transpose()?,
        d_weight: result.d_weight.map(|g| tensor::write(OP, g, (v, d), DType::F32)).transpose()?,
    })
}
