//! Losses, as sums: the division by the global count happens once, after the gradients of all ranks are summed.

use candle_core::{DType, Tensor};
use echat_kernels::{cross_entropy as small, elementwise, linear_cross_entropy as fused, row_normalize as kernel};

use crate::autograd::{Error, Result, Tape, Var};

/// The fused output head's loss.
pub struct LinearLoss {
    /// The summed cross-entropy in nats, a scalar on the tape.
    pub loss: Var,
    /// [2] f64 on the model's device: the same, and how many labels had the highest logit.
    pub sums: Tensor,
    /// Labels.
    pub count: u64,
}

/// The value of a loss's gradient: a number of the host's, so nothing waits for a GPU.
fn scalar(grad: &Tensor) -> Result<f64> {
    Ok(f64::from(grad.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}

fn times(t: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(t.clone()) } else { Ok(elementwise::scale(t, factor)?) }
}

/// Cross-entropy of `labels` against `hidden[rows] weightᵀ`: hidden `[t, d]`, weight `[v, d]`. Logits exist for labelled rows only,
/// a chunk at a time.
pub fn linear_cross_entropy(
    tape: &Tape,
    hidden: &Var,
    weight: &Var,
    rows: &[u32],
    labels: &[u32],
) -> Result<LinearLoss> {
    let [need_hidden, need_weight] = tape.needs([hidden, weight]);
    let needs = fused::Needs { hidden: need_hidden, weight: need_weight };
    let fused::Loss { sums, count, d_hidden, d_weight } =
        fused::forward(hidden.tensor(), weight.tensor(), rows, labels, needs)?;
    tape.count_flops(2.0 * (rows.len() * weight.tensor().elem_count()) as f64, [hidden, weight]);
    let value = sums.get(0)?;
    let loss = tape.op("linear_cross_entropy", &[hidden, weight], value, move |grad, _| {
        let factor = scalar(&grad)?;
        let dh = d_hidden.map(|d| times(&d, factor)).transpose()?;
        let dw = d_weight.map(|d| times(&d, factor)).transpose()?;
        Ok(vec![dh, dw])
    });
    Ok(LinearLoss { loss, sums, count })
}

/// The loss of a small classifier.
pub struct CrossEntropy {
    /// The summed cross-entropy in nats, a scalar on the tape.
    pub loss: Var,
    /// [2] f64 on the model's device: the same, and how many labels had the highest logit.
    pub sums: Tensor,
    /// Softmax of the logits, `[n, c]` f32.
    pub probabilities: Tensor,
}

/// Cross-entropy of logits `[n, c]` against `labels`.
pub fn cross_entropy(tape: &Tape, logits: &Var, labels: &[u32]) -> Result<CrossEntropy> {
    let (sums, probabilities) = small::forward(logits.tensor(), labels)?;
    let value = sums.get(0)?;
    let (saved, owned, dtype) = (probabilities.clone(), labels.to_vec(), logits.tensor().dtype());
    let loss = tape.op("cross_entropy", &[logits], value, move |grad, _| {
        let dx = small::backward(&saved, &owned)?.to_dtype(dtype).map_err(Error::from)?;
        Ok(vec![Some(times(&dx, scalar(&grad)?)?)])
    });
    Ok(CrossEntropy { loss, sums, probabilities })
}

/// Rows of w `[v, d]` divided by their L2 norm (Baichuan2's NormHead).
pub fn row_normalize(tape: &Tape, w: &Var) -> Result<Var> {
    let (y, norms) = kernel::forward(w.tensor())?;
    let saved = w.tensor().clone();
    Ok(tape.op("row_normalize", &[w], y, move |grad, _| Ok(vec![Some(kernel::backward(&grad, &saved, &norms)?)])))
}
