//! Linear layers and what follows them pointwise.

use echat_kernels::activation::{self, Activation};
use echat_kernels::{linear as kernel, swiglu as swiglu_kernel};

use crate::autograd::{Param, Result, Tape, Var};

/// `x wᵀ + b`: x `[t, i]`, w `[o, i]`, b `[o]` → `[t, o]`.
pub fn linear(tape: &Tape, x: &Var, w: &Var, bias: Option<&Var>) -> Result<Var> {
    let y = kernel::forward(x.tensor(), w.tensor(), bias.map(Var::tensor))?;
    tape.count_flops(2.0 * (w.dims()[1] * y.elem_count()) as f64, [x, w]);
    let [need_x, need_w] = tape.needs([x, w]);
    let saved_x = need_w.then(|| x.tensor().clone());
    let saved_w = need_x.then(|| w.tensor().clone());
    let mut inputs = vec![x, w];
    inputs.extend(bias);
    Ok(tape.op("linear", &inputs, y, move |grad, needs| {
        let dx = saved_w.map(|w| kernel::backward_input(&grad, &w)).transpose()?;
        let dw = saved_x.map(|x| kernel::backward_weight(&grad, &x)).transpose()?;
        let mut grads = vec![dx, dw];
        if let Some(&need_bias) = needs.get(2) {
            grads.push(need_bias.then(|| kernel::backward_bias(&grad)).transpose()?);
        }
        Ok(grads)
    }))
}

/// A linear layer: weight `[o, i]`, bias `[o]` or none.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[o, i]`.
    pub weight: Param,
    /// `[o]`.
    pub bias: Option<Param>,
}

impl Linear {
    /// x `[t, i]` → `[t, o]`.
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let bias = self.bias.as_ref().map(|b| tape.param(b));
        linear(tape, x, &tape.param(&self.weight), bias.as_ref())
    }

    /// `activation(x wᵀ + b)`, bias and activation in one pass.
    pub fn forward_activated(&self, tape: &Tape, x: &Var, kind: Activation) -> Result<Var> {
        let y = linear(tape, x, &tape.param(&self.weight), None)?;
        let bias = self.bias.as_ref().map(|b| tape.param(b));
        activate(tape, &y, bias.as_ref(), kind)
    }
}

/// `kind(x + bias)`, x `[t, d]`, bias `[d]`.
pub fn activate(tape: &Tape, x: &Var, bias: Option<&Var>, kind: Activation) -> Result<Var> {
    let y = activation::forward(x.tensor(), bias.map(Var::tensor), kind)?;
    let saved = (x.tensor().clone(), bias.map(|b| b.tensor().clone()));
    let mut inputs = vec![x];
    inputs.extend(bias);
    Ok(tape.op("activation", &inputs, y, move |grad, needs| {
        let dx = activation::backward(&grad, &saved.0, saved.1.as_ref(), kind)?;
        let db = match needs.get(1) {
            Some(true) => Some(Some(activation::column_sum(&dx)?)),
            Some(false) => Some(None),
            None => None,
        };
        let mut grads = vec![needs[0].then_some(dx)];
        grads.extend(db);
        Ok(grads)
    }))
}

/// x `[t, d]` + bias `[d]`.
pub fn add_bias(tape: &Tape, x: &Var, bias: &Var) -> Result<Var> {
    let y = x.tensor().broadcast_add(bias.tensor())?;
    Ok(tape.op("add_bias", &[x, bias], y, move |grad, needs| {
        let db = needs[1].then(|| activation::column_sum(&grad)).transpose()?;
        Ok(vec![needs[0].then_some(grad), db])
    }))
}

/// `silu(gate) · up`, both `[t, d]`.
pub fn swiglu(tape: &Tape, gate: &Var, up: &Var) -> Result<Var> {
    let y = swiglu_kernel::forward(gate.tensor(), up.tensor())?;
    let (g, u) = (gate.tensor().clone(), up.tensor().clone());
    Ok(tape.op("swiglu", &[gate, up], y, move |grad, _| {
        let (dg, du) = swiglu_kernel::backward(&grad, &g, &u)?;
        Ok(vec![Some(dg), Some(du)])
    }))
}
