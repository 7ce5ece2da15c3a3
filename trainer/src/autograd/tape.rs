//! Recording.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use candle_core::Tensor;
use echat_kernels::rng;

use super::{Param, Result};

/// The randomness of one step: draws are keyed by (seed, step), then by site and sample, never by order.
#[derive(Clone, Copy, Debug)]
pub struct StepRng {
    key: u64,
}

impl StepRng {
    /// For optimizer step `step` of a run with `seed`.
    pub fn new(seed: u64, step: u64) -> Self {
        Self { key: rng::key(rng::key(0, seed), step) }
    }

    /// The stream of the draw named `site`, common to all samples.
    pub fn stream(&self, site: u64) -> u64 {
        rng::key(self.key, site)
    }

    /// One stream per sample for the draw named `site`.
    pub fn streams(&self, site: u64, samples: &[u64]) -> Vec<u64> {
        let stream = self.stream(site);
        samples.iter().map(|&sample| rng::key(stream, sample)).collect()
    }
}

/// A tensor, and where its gradient goes if it has one.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    pub(super) source: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A value computed on this tape.
    Value(usize),
    /// A trainable parameter, by slot.
    Param(usize),
}

impl Var {
    /// Its value.
    pub fn tensor(&self) -> &Tensor {
        &self.value
    }

    /// Whether anything trainable lies upstream.
    pub fn needs_grad(&self) -> bool {
        self.source.is_some()
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }
}

pub(super) type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>, &[bool]) -> Result<Vec<Option<Tensor>>>>;
pub(super) type Block = Box<dyn Fn(&Tape, &[Var]) -> Result<Vec<Var>>>;

pub(super) enum Work {
    Op(Backward),
    Recompute { inputs: Vec<Tensor>, block: Block },
}

pub(super) struct Node {
    pub op: &'static str,
    pub inputs: Vec<Option<Source>>,
    pub shapes: Vec<Vec<usize>>,
    pub outputs: std::ops::Range<usize>,
    pub work: Work,
    /// Parameters used inside a recomputed block: held until the block has been differentiated.
    pub held: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Values only.
    Inference,
    /// Record what backward needs.
    Record,
    /// Inside a block to be recomputed: values only, but note which parameters are used.
    Probe,
}

/// What one forward pass did. One tape serves one micro-batch.
pub struct Tape {
    mode: Mode,
    rng: Option<StepRng>,
    pub(super) nodes: RefCell<Vec<Node>>,
    pub(super) values: RefCell<usize>,
    /// How often each trainable parameter has been used and not yet differentiated; shared with recomputed blocks.
    pub(super) uses: Rc<RefCell<Vec<u32>>>,
    probed: RefCell<Vec<usize>>,
    /// Arithmetic so far, forward and the backward to come; shared with recomputed blocks.
    flops: Rc<Cell<f64>>,
}

impl Tape {
    fn with_mode(mode: Mode, rng: Option<StepRng>, uses: Rc<RefCell<Vec<u32>>>, flops: Rc<Cell<f64>>) -> Self {
        Self { mode, rng, nodes: RefCell::default(), values: RefCell::new(0), uses, probed: RefCell::default(), flops }
    }

    /// Records, with dropout and masks drawn from `rng`.
    pub fn training(rng: StepRng) -> Self {
        Self::with_mode(Mode::Record, Some(rng), Rc::default(), Rc::default())
    }

    /// Records, without any randomness (gradient tests; training with all dropout off).
    pub fn recording() -> Self {
        Self::with_mode(Mode::Record, None, Rc::default(), Rc::default())
    }

    /// Records nothing: evaluation and generation.
    pub fn inference() -> Self {
        Self::with_mode(Mode::Inference, None, Rc::default(), Rc::default())
    }

    /// Whether nothing is recorded, nor will be when a block is run again.
    pub fn is_inference(&self) -> bool {
        self.mode == Mode::Inference
    }

    /// The step's randomness; `None` in evaluation, where nothing is dropped.
    pub fn rng(&self) -> Option<StepRng> {
        self.rng
    }

    /// A value with no gradient.
    pub fn constant(&self, value: Tensor) -> Var {
        Var { value, source: None }
    }

    /// A leaf whose gradient can be asked for ([`Tape::gradients`]).
    pub fn leaf(&self, value: Tensor) -> Var {
        let source = (self.mode == Mode::Record).then(|| Source::Value(self.next_values(1).start));
        Var { value, source }
    }

    /// A parameter as an operand.
    pub fn param(&self, param: &Param) -> Var {
        let source = match self.mode {
            Mode::Inference => None,
            Mode::Record | Mode::Probe => param.slot().map(Source::Param),
        };
        Var { value: param.tensor(), source }
    }

    /// Whether each of `inputs` wants a gradient: what an op need not save for operands that do not, it need not keep.
    pub fn needs<const N: usize>(&self, inputs: [&Var; N]) -> [bool; N] {
        inputs.map(|v| self.mode == Mode::Record && v.needs_grad())
    }

    /// Counts a product's arithmetic: `flops` forward, and as much again for each operand that wants a gradient. What
    /// recomputation does twice counts once, when it is differentiated.
    pub fn count_flops<const N: usize>(&self, flops: f64, operands: [&Var; N]) {
        let times = 1 + self.needs(operands).into_iter().filter(|&need| need).count();
        self.flops.set(self.flops.get() + times as f64 * flops);
    }

    /// The model's arithmetic so far: of matrix products, convolutions and attention; with recomputation complete after backward.
    pub fn flops(&self) -> f64 {
        self.flops.get()
    }

    /// Records one output. `backward(grad, needs)` returns a gradient per input, `None` where `needs` is false.
    pub fn op(
        &self,
        op: &'static str,
        inputs: &[&Var],
        output: Tensor,
        backward: impl FnOnce(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> Var {
        let mut outputs = self.op_multi(op, inputs, vec![output], move |grads, needs| {
            // The walk calls an op only when one of its outputs has a gradient; here that is the only one.
            match grads.into_iter().next().flatten() {
                Some(grad) => backward(grad, needs),
                None => Ok(vec![None; needs.len()]),
            }
        });
        outputs.swap_remove(0)
    }

    /// Records several outputs; an output that nothing used has no gradient.
    pub fn op_multi(
        &self,
        op: &'static str,
        inputs: &[&Var],
        outputs: Vec<Tensor>,
        backward: impl FnOnce(Vec<Option<Tensor>>, &[bool]) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> Vec<Var> {
        let wanted = inputs.iter().any(|v| v.needs_grad());
        match self.mode {
            Mode::Record if wanted => self.record(op, inputs, outputs, Work::Op(Box::new(backward)), Vec::new()),
            Mode::Probe => self.probe(inputs, outputs),
            _ => outputs.into_iter().map(|value| Var { value, source: None }).collect(),
        }
    }

    /// Activation checkpointing: runs `block` keeping only its inputs, and runs it again in backward. The block must be a
    /// pure function of its inputs, the parameters and [`Tape::rng`].
    pub fn recompute(
        &self,
        inputs: &[&Var],
        block: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>> + 'static,
    ) -> Result<Vec<Var>> {
        let owned: Vec<Var> = inputs.iter().map(|&v| v.clone()).collect();
        if self.mode != Mode::Record {
            return block(self, &owned);
        }
        let inner = Tape::with_mode(Mode::Probe, self.rng, Rc::clone(&self.uses), Rc::default());
        let outputs: Vec<Tensor> = block(&inner, &owned)?.into_iter().map(|v| v.value).collect();
        let mut held = inner.probed.into_inner();
        held.sort_unstable();
        held.dedup();
        if held.is_empty() && !inputs.iter().any(|v| v.needs_grad()) {
            self.flops.set(self.flops.get() + inner.flops.get());
            return Ok(outputs.into_iter().map(|value| Var { value, source: None }).collect());
        }
        let saved = owned.iter().map(|v| v.value.clone()).collect();
        Ok(self.record("recompute", inputs, outputs, Work::Recompute { inputs: saved, block: Box::new(block) }, held))
    }

    /// [`Tape::recompute`] or not, with the same gradients to the last bit: either way the gradients of the block's inputs are
    /// summed within it before they join those from elsewhere (a layer sum that reads every layer).
    pub fn block(
        &self,
        recompute: bool,
        inputs: &[&Var],
        block: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>> + 'static,
    ) -> Result<Vec<Var>> {
        if recompute {
            return self.recompute(inputs, block);
        }
        let same = |v: &&Var| self.op("block_input", &[v], v.value.clone(), |grad, _| Ok(vec![Some(grad)]));
        let owned: Vec<Var> = inputs.iter().map(same).collect();
        block(self, &owned)
    }

    /// A tape for running a recomputed block again.
    pub(super) fn nested(&self) -> Tape {
        Tape::with_mode(Mode::Record, self.rng, Rc::clone(&self.uses), Rc::clone(&self.flops))
    }

    fn next_values(&self, count: usize) -> std::ops::Range<usize> {
        let mut values = self.values.borrow_mut();
        let start = *values;
        *values += count;
        start..*values
    }

    fn record(
        &self,
        op: &'static str,
        inputs: &[&Var],
        outputs: Vec<Tensor>,
        work: Work,
        held: Vec<usize>,
    ) -> Vec<Var> {
        let range = self.next_values(outputs.len());
        let sources: Vec<_> = inputs.iter().map(|v| v.source).collect();
        let used = sources.iter().flatten().filter_map(|s| match s {
            Source::Param(slot) => Some(*slot),
            Source::Value(_) => None,
        });
        {
            let mut uses = self.uses.borrow_mut();
            for slot in used.chain(held.iter().copied()) {
                if uses.len() <= slot {
                    uses.resize(slot + 1, 0);
                }
                uses[slot] += 1;
            }
        }
        let shapes = inputs.iter().map(|v| v.dims().to_vec()).collect();
        self.nodes.borrow_mut().push(Node { op, inputs: sources, shapes, outputs: range.clone(), work, held });
        range.zip(outputs).map(|(id, value)| Var { value, source: Some(Source::Value(id)) }).collect()
    }

    fn probe(&self, inputs: &[&Var], outputs: Vec<Tensor>) -> Vec<Var> {
        let mut probed = self.probed.borrow_mut();
        for input in inputs {
            if let Some(Source::Param(slot)) = input.source {
                probed.push(slot);
            }
        }
        outputs.into_iter().map(|value| Var { value, source: None }).collect()
    }
}
