//! The optimizer: its state beside the buckets, one fused kernel call per run of like parameters.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Tensor};
use echat_kernels::step_control::{Decided, Decision, Rule, decide};
use echat_kernels::upload::to_device;
use echat_kernels::{adamw, grad_norm as norm_kernel, sgd};

use super::{Error, OptimizerConfig, OptimizerKind, Result};
use crate::autograd::{ALIGNMENT, Bucket, Buckets};

/// AdamW or SGD over the buckets of a model.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    buckets: Vec<BucketState>,
    /// The number of steps taken, [1] f64 where the gradients are.
    taken: Tensor,
    /// The same as the host last heard.
    steps: u64,
}

#[derive(Debug)]
struct BucketState {
    /// Neighbours that are updated alike, as one range.
    runs: Vec<Run>,
    /// Flat tensors as long as the bucket, each with the name it has in checkpoints.
    moments: Vec<(&'static str, Tensor)>,
}

#[derive(Debug, PartialEq)]
struct Run {
    range: Range<usize>,
    peak_lr: f64,
    weight_decay: f64,
}

fn sum_of_squares(buckets: &Buckets) -> Result<Tensor> {
    let grads: Vec<&Tensor> = buckets.iter().map(|bucket| &bucket.grad).collect();
    Ok(norm_kernel::sum_of_squares(&grads)?)
}

impl Optimizer {
    /// An optimizer that has taken no step, its state all zeros (f32, the memory of one master copy per moment).
    pub fn new(config: &OptimizerConfig, buckets: &Buckets) -> Result<Self> {
        let names: &[&'static str] = match config.kind {
            OptimizerKind::Adamw => &["exp_avg", "exp_avg_sq"],
            OptimizerKind::Sgd if config.momentum > 0.0 => &["momentum_buffer"],
            OptimizerKind::Sgd => &[],
        };
        let state = |bucket: &Bucket| -> Result<BucketState> {
            let zeros = || Tensor::zeros(bucket.len(), DType::F32, bucket.master.device());
            let moments = names.iter().map(|&n| Ok((n, zeros()?))).collect::<Result<_>>()?;
            Ok(BucketState { runs: runs(config, bucket), moments })
        };
        let taken = Tensor::zeros(1, DType::F64, &buckets.device())?;
        let buckets = buckets.iter().map(state).collect::<Result<_>>()?;
        Ok(Self { config: config.clone(), buckets, taken, steps: 0 })
    }

    /// Decides about a step by the gradients of `buckets`, where they are: it is taken if their norm is finite, and clipped as configured. Counts it.
    pub fn decide(&self, buckets: &Buckets) -> Result<Tensor> {
        let OptimizerConfig { clip_norm, beta1, beta2, .. } = self.config;
        Ok(decide(&sum_of_squares(buckets)?, &self.taken, Rule { clip_norm, beta1, beta2 })?)
    }

    /// Hears what [`Optimizer::decide`] decided.
    pub fn learn(&mut self, decided: &Decided) {
        self.steps = decided.steps as u64;
    }

    /// Updates the masters and compute copies of `buckets`, the ones it was made for, by their gradients as `decision` says, at the peak learning
    /// rates times `lr_factor`.
    pub fn step(&self, buckets: &Buckets, lr_factor: f64, decision: Decision) -> Result<()> {
        for (bucket, state) in buckets.iter().zip(&self.buckets) {
            for run in &state.runs {
                self.update(bucket, state, run, run.peak_lr * lr_factor, decision)?;
            }
        }
        Ok(())
    }

    fn update(&self, bucket: &Bucket, state: &BucketState, run: &Run, lr: f64, decision: Decision) -> Result<()> {
        let view = |t: &Tensor| t.narrow(0, run.range.start, run.range.len());
        let (master, grad) = (view(&bucket.master)?, view(&bucket.grad)?);
        let compute = bucket.compute.as_ref().map(view).transpose()?;
        let moments = state.moments.iter().map(|(_, t)| view(t)).collect::<candle_core::Result<Vec<_>>>()?;
        let weight_decay = run.weight_decay;
        match (self.config.kind, moments.as_slice()) {
            (OptimizerKind::Adamw, [m, v]) => {
                let OptimizerConfig { beta1, beta2, eps, .. } = self.config;
                let hyper = adamw::Hyper { lr, beta1, beta2, eps, weight_decay, decision };
                adamw::step(&master, m, v, &grad, compute.as_ref(), hyper)?;
            }
            (_, moments) => {
                let hyper = sgd::Hyper { lr, momentum: self.config.momentum, weight_decay, decision };
                sgd::step(&master, moments.first(), &grad, compute.as_ref(), hyper)?;
            }
        }
        Ok(())
    }

    /// The number of steps taken, as of the last [`Optimizer::learn`].
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Its state for a checkpoint: `exp_avg.NAME` and `exp_avg_sq.NAME` (AdamW) or `momentum_buffer.NAME` (SGD with momentum) of
    /// each parameter, f32 in the parameter's shape, views of the live state. Save [`Optimizer::steps`] too.
    pub fn state(&self, buckets: &Buckets) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for (bucket, state) in buckets.iter().zip(&self.buckets) {
            for (moment, flat) in &state.moments {
                for segment in &bucket.segments {
                    let view = flat.narrow(0, segment.range.start, segment.range.len())?;
                    let name = format!("{moment}.{}", segment.param.name());
                    tensors.push((name, view.reshape(segment.shape.as_slice())?));
                }
            }
        }
        Ok(tensors)
    }

    /// Puts back what [`Optimizer::state`] and [`Optimizer::steps`] gave, whatever the buckets were then.
    ///
    /// Errors, and changes nothing, unless `tensors` has exactly the state of these parameters under these settings.
    pub fn load_state(&mut self, buckets: &Buckets, steps: u64, tensors: &[(String, Tensor)]) -> Result<()> {
        let mut saved: BTreeMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut pairs = Vec::new();
        for (name, live) in self.state(buckets)? {
            let saved = saved.remove(name.as_str()).ok_or_else(|| Error::State(format!("{name} is missing")))?;
            if saved.dims() != live.dims() || saved.dtype() != DType::F32 {
                let (dtype, found, needed) = (saved.dtype(), saved.dims(), live.dims());
                return Err(Error::State(format!("{name} has {dtype:?} {found:?}, needed is F32 {needed:?}")));
            }
            pairs.push((saved, live));
        }
        if let Some(name) = saved.keys().next() {
            return Err(Error::State(format!("{name} belongs to no parameter here")));
        }
        for (saved, live) in pairs {
            let flat = to_device(saved, live.device())?.flatten_all()?.contiguous()?;
            live.flatten_all()?.slice_set(&flat, 0, 0)?;
        }
        self.taken.slice_set(&Tensor::from_vec(vec![steps as f64], 1, self.taken.device())?, 0, 0)?;
        self.steps = steps;
        Ok(())
    }
}

/// The parameters of `bucket` in runs of one learning rate and decay, with the zeros between them.
fn runs(config: &OptimizerConfig, bucket: &Bucket) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for segment in &bucket.segments {
        let decays = segment.shape.len() > 1 || config.decay_1d;
        let weight_decay = if decays { config.weight_decay } else { 0.0 };
        let run = Run { range: segment.range.clone(), peak_lr: config.peak_lr(segment.param.group()), weight_decay };
        match runs.last_mut() {
            Some(last)
                if last.range.end.next_multiple_of(ALIGNMENT) == run.range.start
                    && last.peak_lr == run.peak_lr
                    && last.weight_decay == run.weight_decay =>
            {
                last.range.end = run.range.end;
            }
            _ => runs.push(run),
        }
    }
    runs
}
