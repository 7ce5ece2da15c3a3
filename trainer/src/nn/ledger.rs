//! What a forward pass would cost, from sizes alone: its arithmetic as the tape counts it, and what the tape keeps for backward. Each model says
//! beside its layers what it enters (`cost`); the tape itself is what it is tested against.

/// Of a value: whether it wants a gradient; of a layer: whether its parameters do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grad {
    /// The layer's input.
    pub x: bool,
    /// Its parameters.
    pub w: bool,
}

impl Grad {
    /// Whether its output wants one.
    pub fn any(self) -> bool {
        self.x || self.w
    }

    /// The same parameters behind a layer such as this.
    pub fn next(self) -> Self {
        Self { x: self.any(), w: self.w }
    }
}

/// Rows of packed sequences, and the pairs of rows that meet in attention.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rows {
    /// Rows in all.
    pub count: f64,
    /// Pairs within sequences.
    pub pairs: f64,
    /// Pairs of which the key is not behind the query.
    pub causal_pairs: f64,
}

impl Rows {
    /// Of sequences so long.
    pub fn of(lens: impl IntoIterator<Item = usize>) -> Self {
        lens.into_iter().map(|len| len as f64).fold(Self::default(), |sum, len| Self {
            count: sum.count + len,
            pairs: sum.pairs + len * len,
            causal_pairs: sum.causal_pairs + len * (len + 1.0) / 2.0,
        })
    }
}

/// The entries so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ledger {
    /// Bytes of an element of an activation.
    element: f64,
    /// Operations forward.
    pub forward: f64,
    /// Operations forward and backward: [`Tape::count_flops`](crate::autograd::Tape::count_flops).
    pub flops: f64,
    /// Operations done once more by recomputation.
    pub again: f64,
    /// Bytes kept from forward to backward.
    pub kept: f64,
    /// Bytes that recomputing a block adds while it is differentiated: of the largest.
    pub block: f64,
    /// Bytes of gradients of activations alive at a time: the most, estimated.
    pub gradients: f64,
}

impl Ledger {
    /// Nothing yet; activations have elements of so many bytes.
    pub fn new(element: usize) -> Self {
        Self { element: element as f64, forward: 0.0, flops: 0.0, again: 0.0, kept: 0.0, block: 0.0, gradients: 0.0 }
    }

    /// A product of so many operations.
    pub fn product(&mut self, operations: f64, grad: Grad) {
        self.forward += operations;
        self.flops += operations * (1.0 + f64::from(u8::from(grad.x)) + f64::from(u8::from(grad.w)));
    }

    /// A linear layer on `rows`, and its input if a gradient of the weight needs it and nothing else keeps it.
    pub fn linear(&mut self, rows: f64, inputs: usize, outputs: usize, grad: Grad) {
        self.product(2.0 * rows * inputs as f64 * outputs as f64, grad);
    }

    /// An activation that is kept if `condition`.
    pub fn keep(&mut self, condition: bool, rows: f64, width: usize) {
        self.kept += if condition { self.element * rows * width as f64 } else { 0.0 };
    }

    /// The same of f32 statistics.
    pub fn keep_f32(&mut self, condition: bool, rows: f64, width: usize) {
        self.kept += if condition { 4.0 * rows * width as f64 } else { 0.0 };
    }

    /// A norm's input and statistics: mean and 1/σ of a row, or 1/rms alone.
    pub fn norm(&mut self, condition: bool, rows: f64, width: usize, statistics: usize) {
        self.keep(condition, rows, width);
        self.keep_f32(condition, rows, statistics);
    }

    /// Attention's two products, over `pairs` of `heads` of `width`; what enters and leaves it, and a number for each query and head.
    pub fn attention(&mut self, queries: f64, keys: f64, pairs: f64, [heads, kv_heads, width]: [usize; 3], on: bool) {
        let operations = 2.0 * pairs * (heads * width) as f64;
        self.product(2.0 * operations, Grad { x: on, w: on });
        self.keep(on, 2.0 * queries, heads * width);
        self.keep(on, 2.0 * keys, kv_heads * width);
        self.keep_f32(on, queries, heads);
    }

    /// So many elements of gradients alive at once.
    pub fn in_flight(&mut self, elements: f64) {
        self.gradients = self.gradients.max(self.element * elements);
    }

    /// What `enter` enters; if it is recomputed, of all it keeps only its input of so many elements stays.
    pub fn block(&mut self, recompute: bool, input: f64, grad: Grad, enter: impl FnOnce(&mut Self)) {
        let mut inner = Self::new(self.element as usize);
        enter(&mut inner);
        self.forward += inner.forward;
        self.flops += inner.flops;
        self.gradients = self.gradients.max(inner.gradients);
        if recompute && grad.any() {
            let input = self.element * input;
            self.again += inner.forward;
            self.kept += input;
            self.block = self.block.max(inner.kept - input);
        } else {
            self.kept += inner.kept;
        }
    }
}

/// A Transformer layer with layer norms, self-attention over all pairs and a feed-forward of two matrices, whatever stands first.
pub fn transformer_layer(ledger: &mut Ledger, rows: &Rows, [d, ffn, heads]: [usize; 3], grad: Grad) {
    let (on, inner) = (grad.any(), grad.next());
    ledger.norm(on, rows.count, d, 2);
    // What the norm gives: read by three layers, kept once.
    ledger.keep(grad.w, rows.count, d);
    for _ in 0..3 {
        ledger.linear(rows.count, d, d, inner);
    }
    ledger.attention(rows.count, rows.count, rows.pairs, [heads, heads, d / heads], on);
    ledger.linear(rows.count, d, d, inner);
    ledger.norm(on, rows.count, d, 2);
    ledger.keep(grad.w, rows.count, d);
    ledger.linear(rows.count, d, ffn, inner);
    ledger.keep(on, rows.count, ffn);
    ledger.keep(grad.w, rows.count, ffn);
    ledger.linear(rows.count, ffn, d, inner);
    ledger.in_flight(rows.count * (2 * ffn + 2 * d) as f64);
}
