//! What a connector costs: its forward pass entered into a ledger.

use super::{ConnectorConfig, ConnectorKind};
use crate::nn::ledger::{Grad, Ledger, Rows, transformer_layer};

impl ConnectorConfig {
    /// Enters a forward pass over utterances of so many `frames` of width `d`, to embeddings of width `d_llm`. Returns how many each becomes.
    pub fn cost(&self, ledger: &mut Ledger, frames: &[usize], [d, d_llm]: [usize; 2], grad: Grad) -> Vec<usize> {
        let (width, inner) = (self.width, grad.next());
        let stacked: Vec<usize> = frames.iter().map(|n| n.div_ceil(self.stack.max(1))).collect();
        let rows = Rows::of(stacked.iter().copied());
        match self.kind {
            ConnectorKind::Transformer => {
                ledger.keep(grad.w, rows.count, self.stack * d);
                ledger.linear(rows.count, self.stack * d, width, grad);
                ledger.norm(grad.any(), rows.count, width, 2);
                for _ in 0..self.layers {
                    ledger.block(self.recompute, rows.count * width as f64, inner, |ledger| {
                        transformer_layer(ledger, &rows, [width, self.ffn, self.heads], inner);
                    });
                }
                self.proj_cost(ledger, rows.count, d_llm, inner, true);
                stacked
            }
            ConnectorKind::Linear => {
                ledger.keep(grad.w, rows.count, self.stack * d);
                ledger.linear(rows.count, self.stack * d, width, grad);
                ledger.keep(grad.any(), rows.count, width);
                self.proj_cost(ledger, rows.count, d_llm, inner, false);
                stacked
            }
            ConnectorKind::Conv => {
                // Kernel 3, stride 2, a row of zeros on both sides.
                let (mut lens, mut c_in, mut at) = (frames.to_vec(), d, grad);
                for _ in 0..2 {
                    let padded = lens.iter().map(|&n| if n == 0 { 0 } else { n + 2 }).sum::<usize>() as f64;
                    lens.iter_mut().for_each(|n| *n = n.div_ceil(2));
                    let output = lens.iter().sum::<usize>() as f64;
                    ledger.keep(grad.w, padded, c_in);
                    ledger.product(2.0 * output * (3 * c_in * width) as f64, at);
                    ledger.keep(grad.any(), output, width);
                    (c_in, at) = (width, inner);
                }
                self.proj_cost(ledger, lens.iter().sum::<usize>() as f64, d_llm, inner, false);
                lens
            }
            ConnectorKind::Qformer => self.qformer_cost(ledger, frames, [d, d_llm], grad),
        }
    }

    /// The projection, behind a norm or not.
    fn proj_cost(&self, ledger: &mut Ledger, rows: f64, d_llm: usize, grad: Grad, norm: bool) {
        ledger.norm(norm && grad.any(), rows, self.width, 2);
        ledger.keep(grad.w, rows, self.width);
        ledger.linear(rows, self.width, d_llm, grad);
    }

    fn qformer_cost(&self, ledger: &mut Ledger, frames: &[usize], [d, d_llm]: [usize; 2], grad: Grad) -> Vec<usize> {
        let (width, heads) = (self.width, [self.heads, self.heads, self.width / self.heads.max(1)]);
        let lens: Vec<usize> = frames.iter().map(|n| n.div_ceil(self.window.max(1)) * self.queries).collect();
        let (queries, total) = (Rows::of(lens.iter().copied()).count, frames.iter().sum::<usize>() as f64);
        let inner = Grad { x: true, w: grad.w };
        let on = grad.any();
        // The frames, read by every layer's keys and values.
        ledger.keep(grad.w, total, d);
        for layer in 0..self.layers {
            // Queries begin as parameters alone: without gradients if those are frozen, until frames come in.
            let own = Grad { x: grad.w || (layer > 0 && on), w: grad.w };
            ledger.norm(own.any(), queries, width, 2);
            ledger.keep(grad.w, queries, width);
            (0..3).for_each(|_| ledger.linear(queries, width, width, own));
            ledger.attention(queries, queries, queries * self.queries as f64, heads, own.any());
            ledger.linear(queries, width, width, own);
            ledger.norm(own.any(), queries, width, 2);
            ledger.keep(grad.w, queries, width);
            ledger.linear(queries, width, width, own);
            (0..2).for_each(|_| ledger.linear(total, d, width, grad));
            ledger.attention(queries, total, total * self.queries as f64, heads, on);
            ledger.linear(queries, width, width, inner);
            ledger.norm(on, queries, width, 2);
            ledger.keep(grad.w, queries, width);
            ledger.linear(queries, width, self.ffn, inner);
            ledger.keep(on, queries, self.ffn);
            ledger.keep(grad.w, queries, self.ffn);
            ledger.linear(queries, self.ffn, width, inner);
        }
        self.proj_cost(ledger, queries, d_llm, Grad { x: on, w: grad.w }, true);
        lens
    }
}
