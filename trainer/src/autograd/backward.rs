//! The walk back.

use candle_core::Tensor;
use echat_kernels::elementwise;

use super::tape::{Block, Node, Source, Work};
use super::{Error, GradSink, Result, Tape, Var};

impl Tape {
    /// Differentiates `Σ ⟨seed, value⟩` over `seeds`; parameter gradients go to `sink` as they become known. What the tape
    /// saved is freed on the way.
    pub fn backward(&self, seeds: &[(&Var, Tensor)], sink: &mut dyn GradSink) -> Result<()> {
        self.gradients(seeds, &[], sink).map(|_| ())
    }

    /// [`Tape::backward`], and the gradients of the leaves `wrt` (`None` where nothing depends on one).
    pub fn gradients(
        &self,
        seeds: &[(&Var, Tensor)],
        wrt: &[&Var],
        sink: &mut dyn GradSink,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut grads: Vec<Option<Tensor>> = vec![None; *self.values.borrow()];
        for (var, seed) in seeds {
            match var.source {
                Some(Source::Value(id)) => add(&mut grads[id], seed.clone())?,
                Some(Source::Param(slot)) => sink.add(slot, seed)?,
                None => {}
            }
        }
        loop {
            let Some(node) = self.nodes.borrow_mut().pop() else { break };
            self.visit(node, &mut grads, sink)?;
        }
        Ok(wrt
            .iter()
            .map(|var| match var.source {
                Some(Source::Value(id)) => grads[id].take(),
                _ => None,
            })
            .collect())
    }

    fn visit(&self, node: Node, grads: &mut [Option<Tensor>], sink: &mut dyn GradSink) -> Result<()> {
        let Node { op, inputs, shapes, outputs, work, held } = node;
        let out_grads: Vec<Option<Tensor>> = outputs.map(|id| grads[id].take()).collect();
        let in_grads = if out_grads.iter().all(Option::is_none) {
            vec![None; inputs.len()]
        } else {
            match work {
                Work::Op(backward) => {
                    let needs: Vec<bool> = inputs.iter().map(Option::is_some).collect();
                    backward(out_grads, &needs)?
                }
                Work::Recompute { inputs: saved, block } => self.run_again(&inputs, saved, &block, out_grads, sink)?,
            }
        };
        if in_grads.len() != inputs.len() {
            return Err(Error::Arity { op, got: in_grads.len(), inputs: inputs.len() });
        }
        for (i, (source, grad)) in inputs.iter().zip(in_grads).enumerate() {
            if let Some(grad) = &grad
                && grad.dims() != shapes[i]
            {
                let (got, expected) = (grad.dims().to_vec(), shapes[i].clone());
                return Err(Error::GradientShape { op, input: i, got, expected });
            }
            match (source, grad) {
                (Some(Source::Value(id)), Some(grad)) => add(&mut grads[*id], grad)?,
                (Some(Source::Param(slot)), grad) => {
                    if let Some(grad) = grad {
                        sink.add(*slot, &grad)?;
                    }
                    self.release(*slot, sink)?;
                }
                _ => {}
            }
        }
        held.into_iter().try_for_each(|slot| self.release(slot, sink))
    }

    /// Runs a recomputed block again, this time recording, and differentiates it.
    fn run_again(
        &self,
        sources: &[Option<Source>],
        saved: Vec<Tensor>,
        block: &Block,
        out_grads: Vec<Option<Tensor>>,
        sink: &mut dyn GradSink,
    ) -> Result<Vec<Option<Tensor>>> {
        let tape = self.nested();
        let inputs: Vec<Var> = sources
            .iter()
            .zip(saved)
            .map(|(source, value)| if source.is_some() { tape.leaf(value) } else { tape.constant(value) })
            .collect();
        let outputs = block(&tape, &inputs)?;
        let seeds: Vec<(&Var, Tensor)> =
            outputs.iter().zip(out_grads).filter_map(|(var, grad)| Some((var, grad?))).collect();
        let leaves: Vec<&Var> = inputs.iter().collect();
        tape.gradients(&seeds, &leaves, sink)
    }

    fn release(&self, slot: usize, sink: &mut dyn GradSink) -> Result<()> {
        let left = {
            let mut uses = self.uses.borrow_mut();
            uses[slot] -= 1;
            uses[slot]
        };
        if left == 0 { sink.done(slot) } else { Ok(()) }
    }
}

fn add(into: &mut Option<Tensor>, grad: Tensor) -> Result<()> {
    *into = Some(match into.take() {
        None => grad,
        Some(sum) => elementwise::add(&sum, &grad)?,
    });
    Ok(())
}
