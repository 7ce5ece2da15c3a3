//! Convolutions over packed, channels-last sequences.

use candle_core::Tensor;
use echat_kernels::{SeqLens, conv1d as kernel, linear, pos_conv, weight_norm};

use crate::autograd::{Param, Result, Tape, Var};

/// Strided unpadded convolution: x `[t, c_in]`, w `[c_out, k·c_in]` (tap-major) → `[t', c_out]` and its sequences.
pub fn conv1d(
    tape: &Tape,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    seq: &SeqLens,
    kernel_size: usize,
    stride: usize,
) -> Result<(Var, SeqLens)> {
    let (y, out_seq) = kernel::forward(x.tensor(), w.tensor(), bias.map(Var::tensor), seq, kernel_size, stride)?;
    tape.count_flops(2.0 * (w.dims()[1] * y.elem_count()) as f64, [x, w]);
    let [need_x, need_w] = tape.needs([x, w]);
    let saved_x = need_w.then(|| x.tensor().clone());
    let saved_w = need_x.then(|| w.tensor().clone());
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    let seq = seq.clone();
    let y = tape.op("conv1d", &inputs, y, move |grad, needs| {
        let dx = saved_w.map(|w| kernel::backward_input(&grad, &w, &seq, kernel_size, stride)).transpose()?;
        let dw = saved_x.map(|x| kernel::backward_weight(&grad, &x, &seq, kernel_size, stride)).transpose()?;
        let mut grads = vec![dx, dw];
        if let Some(&need_bias) = needs.get(2) {
            grads.push(need_bias.then(|| linear::backward_bias(&grad)).transpose()?);
        }
        Ok(grads)
    });
    Ok((y, out_seq))
}

/// HuBERT's grouped positional convolution with weight norm over the taps (`dim = 2`).
#[derive(Clone, Debug)]
pub struct PosConv {
    /// Magnitude per tap, `[1, 1, k]`.
    pub g: Param,
    /// Direction, `[d, d/groups, k]`.
    pub v: Param,
    /// `[d]`.
    pub bias: Param,
    /// Groups.
    pub groups: usize,
}

impl PosConv {
    /// x `[t, d]` → `[t, d]`, before the activation.
    pub fn forward(&self, tape: &Tape, x: &Var, seq: &SeqLens) -> Result<Var> {
        let (g, v, bias) = (tape.param(&self.g), tape.param(&self.v), tape.param(&self.bias));
        let w = self.weight(tape, &v, &g)?;
        let y = pos_conv::forward(x.tensor(), w.tensor(), bias.tensor(), seq, self.groups)?;
        tape.count_flops(2.0 * (v.dims()[1] * v.dims()[2] * y.elem_count()) as f64, [x, &w]);
        let [need_x, need_w] = tape.needs([x, &w]);
        let saved_x: Option<Tensor> = need_w.then(|| x.tensor().clone());
        let saved_w = need_x.then(|| w.tensor().clone());
        let (seq, groups, taps) = (seq.clone(), self.groups, v.dims()[2]);
        Ok(tape.op("pos_conv", &[x, &w, &bias], y, move |grad, needs| {
            let dx = saved_w.map(|w| pos_conv::backward_input(&grad, &w, &seq, groups)).transpose()?;
            let dw = saved_x.map(|x| pos_conv::backward_weight(&grad, &x, &seq, groups, taps)).transpose()?;
            let db = needs[2].then(|| linear::backward_bias(&grad)).transpose()?;
            Ok(vec![dx, dw, db])
        }))
    }

    fn weight(&self, tape: &Tape, v: &Var, g: &Var) -> Result<Var> {
        let w = weight_norm::forward(v.tensor(), g.tensor())?;
        let saved = (v.tensor().clone(), g.tensor().clone());
        Ok(tape.op("weight_norm", &[v, g], w, move |grad, needs| {
            let (dv, dg) = weight_norm::backward(&grad, &saved.0, &saved.1)?;
            Ok(vec![needs[0].then_some(dv), needs[1].then_some(dg)])
        }))
    }
}
