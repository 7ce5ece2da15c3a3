//! What the decoder costs: [`Decoder::forward`](super::Decoder::forward) and its loss entered into a ledger.

use echat_kernels::linear_cross_entropy::gpu_chunk_rows;

use super::Architecture;
use crate::nn::ledger::{Grad, Ledger, Rows};

impl Architecture {
    /// Enters a forward pass over sequences of so many `rows`, of which `labelled` predict a token. `x`: whether what it reads wants a gradient.
    pub fn cost(&self, ledger: &mut Ledger, rows: &Rows, labelled: f64, grad: Grad, recompute: bool) {
        let at = Grad { x: grad.any(), w: grad.w };
        for _ in 0..self.layers {
            ledger.block(recompute, rows.count * self.hidden as f64, at, |ledger| self.layer_cost(ledger, rows, at));
        }
        ledger.norm(at.any(), rows.count, self.hidden, 1);
        ledger.product(2.0 * labelled * (self.vocab * self.hidden) as f64, at);
        // The loss turns logits into their gradients at once: what it keeps are those of the hidden states, and of the head.
        ledger.keep(at.any(), rows.count, self.hidden);
        ledger.keep_f32(at.w, self.vocab as f64, self.hidden);
    }

    fn layer_cost(&self, ledger: &mut Ledger, rows: &Rows, grad: Grad) {
        let (t, d, i, on) = (rows.count, self.hidden, self.intermediate, grad.any());
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        ledger.norm(on, t, d, 1);
        ledger.keep(grad.w, t, d);
        for width in [q, kv, kv] {
            ledger.linear(t, d, width, grad);
        }
        if self.qk_norm {
            ledger.keep(on, t, q + kv);
            ledger.keep_f32(on, t, self.heads + self.kv_heads);
        }
        ledger.attention(t, t, rows.causal_pairs, [self.heads, self.kv_heads, self.head_dim], on);
        ledger.linear(t, q, d, grad);
        ledger.norm(on, t, d, 1);
        ledger.keep(grad.w, t, d);
        ledger.linear(t, d, i, grad);
        ledger.linear(t, d, i, grad);
        ledger.keep(on, 2.0 * t, i);
        ledger.keep(grad.w, t, i);
        ledger.linear(t, i, d, grad);
        ledger.in_flight(t * (3 * i + 2 * d) as f64);
    }

    /// Bytes the loss works in on a GPU: a chunk's logits as f32, their gradients in the models' dtype, the gradients of labelled rows.
    pub fn loss_bytes(&self, labelled: usize, element: usize) -> usize {
        let chunk = gpu_chunk_rows(self.vocab, labelled).min(labelled);
        let gradients = if element == 4 { 0 } else { element };
        chunk * self.vocab * (4 + gradients) + labelled * self.hidden * element
    }
}
