//! Attention by kernels: tensor cores for bf16 whose rows are aligned, plain arithmetic for the rest. Which instructions tensor cores are used by, `path` says.
//!
//! A block is one tile of one head of one sequence; which, a list says that is made on the host (`SeqLens::tiles`).

use candle_core::{DType, Tensor};

use super::path::{Path, path};
use super::{Attention, Heads, OP};
use crate::cuda::{Call, empty, suffix, upload};
use crate::seqlens::Cost;
use crate::{Error, Result, rng};

/// What the backward pass is given.
pub(super) struct Saved<'a> {
    pub grad: &'a Tensor,
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub out: &'a Tensor,
    pub lse: &'a Tensor,
}

/// How a kernel is launched.
#[derive(Clone, Copy)]
struct Shape {
    /// Rows of its own tile.
    tile: usize,
    threads: usize,
    /// Shared memory in bytes.
    shared: usize,
    /// Blocks for each tile.
    parts: usize,
}

impl Shape {
    /// Of a block with `own` tiles of its own, and two stages of two tiles of `others` rows, all of `wide` numbers in bf16.
    fn tiles(wide: usize, tile: usize, threads: usize, own: usize, others: usize) -> Self {
        Self { tile, threads, shared: 2 * wide * (own * tile + 4 * others), parts: 1 }
    }
}

/// The kernels for a width of heads and a dtype.
struct Kernels {
    prefix: &'static str,
    suffix: String,
    forward: Shape,
    backward_q: Shape,
    backward_k: Shape,
}

impl Kernels {
    /// Those for heads of `dh` numbers in `q` and `others`, rows of heads.
    fn new(q: &Tensor, others: &[&Tensor], dh: usize, args: &Attention) -> Result<Self> {
        let dtype = q.dtype();
        let name = suffix(OP, dtype)?;
        if let Some(other) = others.iter().find(|t| t.dtype() != dtype) {
            return Err(Error::DType { op: OP, dtype: other.dtype() });
        }
        let wide = [64, 128].into_iter().find(|&wide| dh <= wide).unwrap_or(256);
        let aligned =
            dh.is_multiple_of(8) && others.iter().chain([&q]).all(|t| t.layout().start_offset().is_multiple_of(8));
        // Fast kernels take the greatest product for the greatest score.
        Ok(match dtype == DType::BF16 && aligned && args.scale > 0.0 {
            true => match path(q.device(), wide, drops(args)) {
                Path::Wgmma => Self::wgmma(wide, drops(args)),
                Path::Mma => Self::mma(wide, drops(args)),
            },
            false if dtype == DType::BF16 && wide == 128 => Self::plain(name, 256),
            false => Self::plain(name, wide),
        })
    }

    /// Shapes as in `plain.cuh`.
    fn plain(name: &str, wide: usize) -> Self {
        let shape = |tiles| Shape { tile: 32, threads: 128, shared: 4 * 32 * (tiles * (wide + 4) + 36), parts: 1 };
        let suffix = format!("{name}_{wide}");
        Self { prefix: "attention_plain", suffix, forward: shape(3), backward_q: shape(4), backward_k: shape(4) }
    }

    /// Shapes as in `kernel.cu`.
    fn mma(wide: usize, drops: bool) -> Self {
        let shape = |tile, threads, own, others| Shape::tiles(wide, tile, threads, own, others);
        let (forward, backward_q, backward_k) = match wide {
            64 => (shape(128, 128, 1, 48), shape(128, 128, 2, 64), shape(128, 128, 2, 64)),
            128 => (shape(128, 128, 1, 48), shape(128, 128, 2, 32), shape(128, 256, 2, 64)),
            _ => (shape(64, 128, 1, 32), shape(64, 128, 2, 32), Shape { parts: 2, ..shape(64, 128, 2, 32) }),
        };
        Self { prefix: "attention", suffix: fast_suffix(wide, drops), forward, backward_q, backward_k }
    }

    /// Shapes as in `kernel.cu`: warpgroups of 64 rows.
    fn wgmma(wide: usize, drops: bool) -> Self {
        let shape = |groups: usize, own, others| {
            let shape = Shape::tiles(wide, 64 * groups, 128 * groups, own, others);
            // Where its tiles begin is a multiple of 1 KiB, where its memory does is not.
            Shape { shared: shape.shared + 1024, ..shape }
        };
        let (forward, backward_q, backward_k) = match wide {
            64 => (shape(2, 1, 64), shape(2, 2, 64), shape(2, 2, 64)),
            _ => (shape(2, 1, 128), shape(2, 2, 64), shape(2, 2, 64)),
        };
        Self { prefix: "attention_wgmma", suffix: fast_suffix(wide, drops), forward, backward_q, backward_k }
    }

    fn name(&self, what: &str) -> String {
        format!("{}_{what}_{}", self.prefix, self.suffix)
    }
}

/// How kernels on tensor cores are named.
fn fast_suffix(wide: usize, drops: bool) -> String {
    format!("{}bf16_{wide}", if drops { "dropout_" } else { "" })
}

/// Whether any probability is dropped.
fn drops(args: &Attention) -> bool {
    args.dropout.is_some_and(|dropout| dropout.p > 0.0 && !dropout.streams.is_empty())
}

/// What every kernel is told about the problem, on the device.
struct Problem<'a> {
    args: &'a Attention<'a>,
    heads: Heads,
    q_offsets: Tensor,
    k_offsets: Tensor,
    streams: Option<Tensor>,
}

impl<'a> Problem<'a> {
    fn new(q: &Tensor, heads: Heads, args: &'a Attention) -> Result<Self> {
        let (tq, tk) = (args.q_seq.total(), args.k_seq.total());
        if tq.max(tk) > i32::MAX as usize / 2 {
            return Err(Error::Value { op: OP, message: format!("{tq} queries over {tk} keys are too many") });
        }
        let dropout = args.dropout.filter(|_| drops(args));
        let streams = dropout.map(|dropout| {
            let streams: Vec<i64> = dropout.streams.iter().map(|s| s.cast_signed()).collect();
            upload(&streams, q)
        });
        let (q_offsets, k_offsets) = (args.q_seq.device(q)?, args.k_seq.device(q)?);
        Ok(Self { args, heads, q_offsets, k_offsets, streams: streams.transpose()? })
    }

    fn queries(&self, tile: usize) -> Result<Tensor> {
        self.args.q_seq.tiles(tile, if self.args.causal { Cost::Rising } else { Cost::Even }, &self.q_offsets)
    }

    fn keys(&self, tile: usize) -> Result<Tensor> {
        self.args.k_seq.tiles(tile, if self.args.causal { Cost::Falling } else { Cost::Even }, &self.q_offsets)
    }

    /// The last arguments of every kernel (`ATTENTION_PROBLEM` of `place.cuh`), and off it goes: `heads` blocks for each
    /// of the tiles `work`.
    fn launch<'b>(&'b self, call: Call<'b>, work: &'b Tensor, heads: usize, shape: Shape) -> Result<()> {
        let Heads { h, hk, dh } = self.heads;
        let p = self.streams.as_ref().and(self.args.dropout).map_or(0.0, |dropout| dropout.p);
        let call = call.tensor(&self.q_offsets).tensor(&self.k_offsets).tensor(work);
        let call = call.maybe(self.streams.as_ref(), DType::I64).u32(self.args.q_seq.total()).u32(h).u32(hk).u32(dh);
        let call = call.u32(usize::from(self.args.causal)).f32(self.args.scale);
        let call = call.u32(rng::threshold(p) as usize).f32(1.0 / (1.0 - p));
        call.launch([work.dim(0)? * heads, shape.parts, 1], shape.threads, shape.shared)
    }
}

pub(super) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, args: &Attention) -> Result<(Tensor, Tensor)> {
    let kernels = Kernels::new(q, &[k, v], heads.dh, args)?;
    let problem = Problem::new(q, heads, args)?;
    let out = empty(q.shape(), q.dtype(), q)?;
    let lse = empty((heads.h, args.q_seq.total()), DType::F32, q)?;
    let (name, work) = (kernels.name("forward"), problem.queries(kernels.forward.tile)?);
    let call = Call::new(OP, OP, &name).tensor(q).tensor(k).tensor(v).tensor(&out).tensor(&lse);
    problem.launch(call, &work, heads.h, kernels.forward)?;
    Ok((out, lse))
}

pub(super) fn backward(saved: &Saved, heads: Heads, args: &Attention) -> Result<(Tensor, Tensor, Tensor)> {
    let &Saved { grad, q, k, v, out, lse } = saved;
    let kernels = Kernels::new(q, &[grad, k, v, out], heads.dh, args)?;
    if lse.dtype() != DType::F32 {
        return Err(Error::DType { op: OP, dtype: lse.dtype() });
    }
    let problem = Problem::new(q, heads, args)?;
    let (dq, dk, dv) =
        (empty(q.shape(), q.dtype(), q)?, empty(k.shape(), k.dtype(), k)?, empty(v.shape(), v.dtype(), v)?);
    let delta = empty((heads.h, args.q_seq.total()), DType::F32, q)?;

    let (name, work) = (kernels.name("backward_q"), problem.queries(kernels.backward_q.tile)?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(q).tensor(k).tensor(v).tensor(out).tensor(lse);
    problem.launch(call.tensor(&delta).tensor(&dq), &work, heads.h, kernels.backward_q)?;

    let (name, work) = (kernels.name("backward_k"), problem.keys(kernels.backward_k.tile)?);
    let call = Call::new(OP, OP, &name).tensor(grad).tensor(q).tensor(k).tensor(v).tensor(lse).tensor(&delta);
    problem.launch(call.tensor(&dk).tensor(&dv), &work, heads.hk, kernels.backward_k)?;
    Ok((dq, dk, dv))
}

/// The products that [`Path::Wgmma`] is made of, alone, for checks: of bf16 `a` [64, d] and `b` [n, d], with (d, n) = (64, 128) or (128, 64), the f32
/// `a b'` [64, n] and, that rounded to bf16, `(a b') b` [64, d].
pub(super) fn products(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let ((m, d), (n, _)) = (a.dims2()?, b.dims2()?);
    let (dots, sums) = (empty((m, n), DType::F32, a)?, empty((m, d), DType::F32, a)?);
    let name = format!("attention_wgmma_products_{d}");
    let call = Call::new(OP, OP, &name).of(a, DType::BF16).of(b, DType::BF16).tensor(&dots).tensor(&sums);
    call.launch([1, 1, 1], 128, 2 * d * (m + n) + 1024)?;
    Ok((dots, sums))
}
