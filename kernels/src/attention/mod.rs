//! Scaled dot-product attention over packed sequences of any lengths, by tiles with an online softmax (FlashAttention-2,
//! Dao 2023): the scores of a whole sequence never exist.
//!
//! Causal masks are aligned at the bottom right: query `i` of `lq` sees keys `0..=i + lk - lq`, so one new query over
//! a cache of keys sees them all. `h` query heads share `hk` key heads, `h / hk` consecutive ones each. A query that sees
//! no key gives zeros.

mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
pub mod flash;
mod path;
pub mod reference;

use candle_core::{DType, Tensor};

use crate::{Error, Result, SeqLens, tensor};

pub use path::{Path, paths, with_path};

const OP: &str = "attention";

/// The largest head dimension.
pub const MAX_HEAD_DIM: usize = 256;

/// What to attend to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The queries of each sequence.
    pub q_seq: &'a SeqLens,
    /// The keys of each sequence; as many sequences.
    pub k_seq: &'a SeqLens,
    /// Whether a query sees only the keys up to its own place.
    pub causal: bool,
    /// What the dot products are multiplied by, usually `1/sqrt(dh)`.
    pub scale: f32,
    /// Dropout of the probabilities, in training.
    pub dropout: Option<Dropout<'a>>,
}

/// Dropout of attention probabilities.
///
/// Element (head, i, j), counted from the start of its sequence, is dropped where
/// `bits(row(key(stream, head), i), j) < threshold(p)` (see [`crate::rng`]); the others are scaled by `1/(1-p)`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// The probability of dropping, in [0, 1).
    pub p: f32,
    /// One stream key per sequence.
    pub streams: &'a [u64],
}

/// Attention of `q` [tq, h, dh] over `k` and `v` [tk, hk, dh]: the output [tq, h, dh] and the log-sum-exp of each
/// query's scaled scores [h, tq] f32 (-infinity where it sees none), which [`backward`] needs.
pub fn forward(q: &Tensor, k: &Tensor, v: &Tensor, args: &Attention) -> Result<(Tensor, Tensor)> {
    let heads = check(q, k, v, args)?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(q) {
        return cuda::forward(q, k, v, heads, args);
    }
    let (out, lse) = cpu::forward(&tensor::read(OP, q)?, &tensor::read(OP, k)?, &tensor::read(OP, v)?, heads, args);
    let lse = tensor::write(OP, lse, (heads.h, args.q_seq.total()), DType::F32)?;
    Ok((tensor::write(OP, out, q.shape(), q.dtype())?, lse))
}

/// The output of [`forward`] alone, where no backward pass follows. With the feature `flash-attn` candle-flash-attn makes it where it can
/// ([`flash::serves`]), the same to the rounding of bf16.
pub fn infer(q: &Tensor, k: &Tensor, v: &Tensor, args: &Attention) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if let Some(out) = flash::forward(q, k, v, check(q, k, v, args)?, args)? {
        return Ok(out);
    }
    Ok(forward(q, k, v, args)?.0)
}

/// The gradients of `q`, `k` and `v` from that of the output, `grad` [tq, h, dh], with the forward pass's `out` and `lse`.
pub fn backward(
    grad: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    args: &Attention,
) -> Result<(Tensor, Tensor, Tensor)> {
    let heads = check(q, k, v, args)?;
    tensor::expect_shape(OP, "grad", grad, q.dims())?;
    tensor::expect_shape(OP, "out", out, q.dims())?;
    tensor::expect_shape(OP, "lse", lse, &[heads.h, args.q_seq.total()])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if crate::cuda::takes(q) {
        return cuda::backward(&cuda::Saved { grad, q, k, v, out, lse }, heads, args);
    }
    let (grad, out, lse) = (tensor::read(OP, grad)?, tensor::read(OP, out)?, tensor::read(OP, lse)?);
    let (q_read, k_read, v_read) = (tensor::read(OP, q)?, tensor::read(OP, k)?, tensor::read(OP, v)?);
    let saved = cpu::Saved { grad: &grad, q: &q_read, k: &k_read, v: &v_read, out: &out, lse: &lse };
    let (dq, dk, dv) = cpu::backward(&saved, heads, args);
    Ok((
        tensor::write(OP, dq, q.shape(), q.dtype())?,
        tensor::write(OP, dk, k.shape(), k.dtype())?,
        tensor::write(OP, dv, v.shape(), v.dtype())?,
    ))
}

/// The products that [`Path::Wgmma`] is made of, alone, for checks of a device that has it: of bf16 `a` [64, d] and `b` [n, d], (d, n) being (64, 128) or
/// (128, 64), the f32 `a b'` [64, n] and, that rounded to bf16, `(a b') b` [64, d].
pub fn warpgroup_products(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let expected = if b.dims() == [128, 64] { [64, 64] } else { [64, 128] };
    tensor::expect_shape(OP, "a", a, &expected)?;
    tensor::expect_shape(OP, "b", b, &[if expected[1] == 64 { 128 } else { 64 }, expected[1]])?;
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    if paths(a.device()).contains(&Path::Wgmma) {
        return cuda::products(a, b);
    }
    Err(Error::Device { op: OP, device: format!("{:?}, which has no wgmma", a.device()) })
}

/// Numbers of heads and their width.
#[derive(Clone, Copy, Debug)]
struct Heads {
    /// Query heads.
    h: usize,
    /// Key and value heads.
    hk: usize,
    /// The width of a head.
    dh: usize,
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, args: &Attention) -> Result<Heads> {
    let &[tq, h, dh] = q.dims() else {
        return Err(Error::Shape { op: OP, what: "q", expected: "[tq, h, dh]".into(), got: q.shape().clone() });
    };
    let &[tk, hk, _] = k.dims() else {
        return Err(Error::Shape { op: OP, what: "k", expected: "[tk, hk, dh]".into(), got: k.shape().clone() });
    };
    tensor::expect_shape(OP, "q", q, &[args.q_seq.total(), h, dh])?;
    tensor::expect_shape(OP, "k", k, &[args.k_seq.total(), hk, dh])?;
    tensor::expect_shape(OP, "v", v, &[tk, hk, dh])?;
    let wrong = |message: String| Err(Error::Value { op: OP, message });
    if args.q_seq.count() != args.k_seq.count() {
        return wrong(format!("{} sequences of queries, {} of keys", args.q_seq.count(), args.k_seq.count()));
    }
    if hk == 0 || !h.is_multiple_of(hk) {
        return wrong(format!("{h} query heads do not divide among {hk} key heads"));
    }
    if dh == 0 || dh > MAX_HEAD_DIM {
        return wrong(format!("head dimension {dh} is not in 1..={MAX_HEAD_DIM}"));
    }
    if tq > u32::MAX as usize || tk > u32::MAX as usize {
        return wrong(format!("{tq} queries over {tk} keys are too many"));
    }
    if let Some(dropout) = args.dropout {
        if !(0.0..1.0).contains(&dropout.p) {
            return wrong(format!("dropout {} is not in [0, 1)", dropout.p));
        }
        if dropout.streams.len() != args.q_seq.count() {
            return wrong(format!("{} dropout streams for {} sequences", dropout.streams.len(), args.q_seq.count()));
        }
    }
    Ok(Heads { h, hk, dh })
}
