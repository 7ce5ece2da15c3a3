//! Attention and rotary positions.

use echat_kernels::attention::{self as kernel, Attention};
use echat_kernels::rope as rope_kernel;
use echat_kernels::{SeqLens, attention};
use std::rc::Rc;

use super::dropout::{Dropout, Packed};
use crate::autograd::{Result, Tape, Var};

/// How queries see keys.
pub struct AttentionArgs<'a> {
    /// The queries' sequences (and sample keys, for dropout).
    pub queries: &'a Packed,
    /// The keys' sequences.
    pub keys: &'a SeqLens,
    /// Whether a query sees only keys up to its own position, aligned at the end.
    pub causal: bool,
    /// Multiplies the scores; usually `1/√head_dim`.
    pub scale: f32,
    /// On the probabilities.
    pub dropout: Option<&'a Dropout>,
}

struct Owned {
    q_seq: SeqLens,
    k_seq: SeqLens,
    causal: bool,
    scale: f32,
    dropout: Option<(f32, Vec<u64>)>,
}

impl Owned {
    /// Pairs of query and key that meet.
    fn seen(&self) -> f64 {
        let hidden = |queries: usize| if self.causal { queries * queries.saturating_sub(1) / 2 } else { 0 };
        self.q_seq.lens().zip(self.k_seq.lens()).map(|(q, k)| (q * k) as f64 - hidden(q) as f64).sum()
    }

    fn args(&self) -> Attention<'_> {
        Attention {
            q_seq: &self.q_seq,
            k_seq: &self.k_seq,
            causal: self.causal,
            scale: self.scale,
            dropout: self.dropout.as_ref().map(|(p, streams)| attention::Dropout { p: *p, streams }),
        }
    }
}

/// Softmax attention over packed sequences: q `[tq, h, dh]`, k and v `[tk, hk, dh]` → `[tq, h, dh]`.
pub fn attention(tape: &Tape, q: &Var, k: &Var, v: &Var, args: &AttentionArgs) -> Result<Var> {
    let owned = Rc::new(Owned {
        q_seq: args.queries.seq.clone(),
        k_seq: args.keys.clone(),
        causal: args.causal,
        scale: args.scale,
        dropout: args.dropout.and_then(|d| d.draw(tape, args.queries)),
    });
    // Scores and their product with v; backward, a product each for dq, dk, dv and the probabilities.
    let [_, heads, width] = [0, 1, 2].map(|i| q.dims()[i]);
    tape.count_flops(2.0 * (heads * width) as f64 * owned.seen(), [q, k]);
    tape.count_flops(2.0 * (heads * width) as f64 * owned.seen(), [q, v]);
    if tape.is_inference() {
        return Ok(tape.constant(kernel::infer(q.tensor(), k.tensor(), v.tensor(), &owned.args())?));
    }
    let (out, lse) = kernel::forward(q.tensor(), k.tensor(), v.tensor(), &owned.args())?;
    let saved = (q.tensor().clone(), k.tensor().clone(), v.tensor().clone(), out.clone(), lse);
    Ok(tape.op("attention", &[q, k, v], out, move |grad, needs| {
        let (q, k, v, out, lse) = &saved;
        let (dq, dk, dv) = kernel::backward(&grad, q, k, v, out, lse, &owned.args())?;
        Ok(vec![needs[0].then_some(dq), needs[1].then_some(dk), needs[2].then_some(dv)])
    }))
}

/// Rotary positions (NeoX halves): x `[t, h, dh]`, one position per row.
pub fn rope(tape: &Tape, x: &Var, positions: &Rc<[u32]>, table: &Rc<rope_kernel::Table>) -> Result<Var> {
    let y = rope_kernel::forward(x.tensor(), positions, table)?;
    let (positions, table) = (Rc::clone(positions), Rc::clone(table));
    Ok(tape.op("rope", &[x], y, move |grad, _| Ok(vec![Some(rope_kernel::backward(&grad, &positions, &table)?)])))
}
