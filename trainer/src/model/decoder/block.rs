//! One decoder layer.

use std::rc::Rc;

use echat_kernels::rope::Table;

use super::{Architecture, KvCache};
use crate::autograd::{Param, Result, Tape, Var};
use crate::model::weights::{self, Init, Loader};
use crate::nn::{self, AttentionArgs, Linear, Packed, RmsNorm};

/// Query, key and value projections.
enum Projections {
    /// One weight, rows of queries, then keys, then values (Baichuan's `W_pack`).
    Joined(Param),
    /// Three layers.
    Separate([Linear; 3]),
}

pub(super) struct Block {
    input_norm: RmsNorm,
    qkv: Projections,
    head_norms: Option<[RmsNorm; 2]>,
    o_proj: Linear,
    post_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    table: Rc<Table>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Block {
    pub fn build(loader: &Loader, a: &Architecture, table: &Rc<Table>) -> weights::Result<Self> {
        let linear = |scope: &Loader, name, i, o, bias| scope.linear(name, i, o, bias, Init::LINEAR);
        let norm = |scope: &Loader, name, width| scope.rms_norm(name, width, a.rms_eps);
        let (attn, mlp) = (loader.pp("self_attn"), loader.pp("mlp"));
        let (q_dim, kv_dim) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let qkv = if a.packed_qkv {
            Projections::Joined(attn.param("W_pack.weight", &[q_dim + 2 * kv_dim, a.hidden], Init::LINEAR)?)
        } else {
            Projections::Separate([
                linear(&attn, "q_proj", a.hidden, q_dim, a.qkv_bias)?,
                linear(&attn, "k_proj", a.hidden, kv_dim, a.qkv_bias)?,
                linear(&attn, "v_proj", a.hidden, kv_dim, a.qkv_bias)?,
            ])
        };
        let head_norms = if a.qk_norm {
            Some([norm(&attn, "q_norm", a.head_dim)?, norm(&attn, "k_norm", a.head_dim)?])
        } else {
            None
        };
        let o_proj = linear(&attn, "o_proj", q_dim, a.hidden, a.o_bias)?;
        let gate = linear(&mlp, "gate_proj", a.hidden, a.intermediate, a.mlp_bias)?;
        let up = linear(&mlp, "up_proj", a.hidden, a.intermediate, a.mlp_bias)?;
        let down = linear(&mlp, "down_proj", a.intermediate, a.hidden, a.mlp_bias)?;
        Ok(Self {
            input_norm: norm(loader, "input_layernorm", a.hidden)?,
            qkv,
            head_norms,
            o_proj,
            post_norm: norm(loader, "post_attention_layernorm", a.hidden)?,
            gate,
            up,
            down,
            table: Rc::clone(table),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
        })
    }

    pub fn forward(&self, tape: &Tape, x: &Var, packed: &Packed, positions: &Rc<[u32]>) -> Result<Var> {
        let (q, k, v) = self.project(tape, x, positions)?;
        let y = nn::attention(tape, &q, &k, &v, &self.args(packed, &packed.seq))?;
        self.rest(tape, x, &y)
    }

    /// The same over keys and values already in `cache`, to which it adds.
    pub fn extend(
        &self,
        tape: &Tape,
        x: &Var,
        packed: &Packed,
        positions: &Rc<[u32]>,
        cache: &mut KvCache,
        layer: usize,
    ) -> Result<Var> {
        let (q, k, v) = self.project(tape, x, positions)?;
        let y = cache.attend(layer, &packed.seq, q.tensor(), k.tensor(), v.tensor(), self.scale())?;
        self.rest(tape, x, &tape.constant(y))
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    fn args<'a>(&self, packed: &'a Packed, keys: &'a nn::SeqLens) -> AttentionArgs<'a> {
        AttentionArgs { queries: packed, keys, causal: true, scale: self.scale(), dropout: None }
    }

    /// Rotated queries `[t, h, dh]`, rotated keys and values `[t, hk, dh]`.
    fn project(&self, tape: &Tape, x: &Var, positions: &Rc<[u32]>) -> Result<(Var, Var, Var)> {
        let x = self.input_norm.forward(tape, x)?;
        let [q, k, v] = match &self.qkv {
            Projections::Separate(layers) => {
                [layers[0].forward(tape, &x)?, layers[1].forward(tape, &x)?, layers[2].forward(tape, &x)?]
            }
            Projections::Joined(weight) => {
                let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
                let parts = nn::split_rows(tape, &tape.param(weight), &[q, kv, kv])?;
                let part = |i: usize| nn::linear(tape, &x, &parts[i], None);
                [part(0)?, part(1)?, part(2)?]
            }
        };
        let rows = x.dims()[0];
        let by_head = |x: &Var, heads: usize| nn::reshape(tape, x, &[rows, heads, self.head_dim]);
        let (mut q, mut k, v) = (by_head(&q, self.heads)?, by_head(&k, self.kv_heads)?, by_head(&v, self.kv_heads)?);
        if let Some([q_norm, k_norm]) = &self.head_norms {
            q = q_norm.forward(tape, &q)?;
            k = k_norm.forward(tape, &k)?;
        }
        let q = nn::rope(tape, &q, positions, &self.table)?;
        Ok((q, nn::rope(tape, &k, positions, &self.table)?, v))
    }

    /// Output projection, residuals, feed-forward.
    fn rest(&self, tape: &Tape, x: &Var, y: &Var) -> Result<Var> {
        let y = nn::reshape(tape, y, &[x.dims()[0], self.heads * self.head_dim])?;
        let (x, h) = self.post_norm.add(tape, x, &self.o_proj.forward(tape, &y)?)?;
        let h = nn::swiglu(tape, &self.gate.forward(tape, &h)?, &self.up.forward(tape, &h)?)?;
        nn::add(tape, &x, &self.down.forward(tape, &h)?)
    }
}
