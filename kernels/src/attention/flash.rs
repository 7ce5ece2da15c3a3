//! Attention by candle-flash-attn (FlashAttention-2), with the feature `flash-attn`: faster, but no backward pass can follow, for it keeps
//! no log-sum-exp.
//!
//! It means what ours means: causal masks aligned at the bottom right, grouped heads, zeros where a query sees no key, sequences without queries
//! or without keys.

use candle_core::DType;

use super::Attention;

/// The widest heads it is asked for: no model here has wider ones, and those kernels take longest to compile (`launch/nvcc-lean` leaves them out).
pub const MAX_WIDTH: usize = 128;

/// The compute capability its kernels begin at.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// What a launch has at most of heads, and of sequences.
const MAX_BLOCKS: usize = 65_535;

/// Queries, keys and values, as far as the choice of kernels depends on them.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// What all three are stored in.
    pub dtype: DType,
    /// Heads of the queries.
    pub heads: usize,
    /// The width of a head.
    pub width: usize,
    /// Whether all three are contiguous and begin at multiples of 16 bytes.
    pub aligned: bool,
    /// The compute capability of their GPU, major and minor.
    pub capability: (i32, i32),
}

/// Whether candle-flash-attn makes the output where no backward pass follows; our kernels make all others, and whatever is recorded.
pub fn serves(operands: &Operands, args: &Attention) -> bool {
    let &Operands { dtype, heads, width, aligned, capability } = operands;
    let (queries, keys) = (args.q_seq.total(), args.k_seq.total());
    // Single sequences may be empty; but no GPU has memory of no bytes, nor a grid of no blocks. Rows are counted in i32.
    let rows = |total: usize| (1..=i32::MAX as usize / 2).contains(&total);
    let blocks = |count: usize| (1..=MAX_BLOCKS).contains(&count);
    dtype == DType::BF16
        && aligned
        && capability >= LEAST_CAPABILITY
        && width.is_multiple_of(8)
        && (8..=MAX_WIDTH).contains(&width)
        && blocks(heads)
        && blocks(args.q_seq.count())
        && rows(queries)
        && rows(keys)
        // It takes the greatest product for the greatest score.
        && args.scale > 0.0
        && args.dropout.is_none_or(|dropout| dropout.p == 0.0)
}

#[cfg(feature = "flash-attn")]
pub(super) use call::forward;

#[cfg(feature = "flash-attn")]
mod call {
    use std::sync::OnceLock;

    use candle_core::{DType, Device, Tensor};

    use super::super::{Attention, Heads, OP};
    use super::{Operands, serves};
    use crate::{Error, Result, SeqLens};

    /// The output, if candle-flash-attn makes it.
    pub(in crate::attention) fn forward(
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: Heads,
        args: &Attention,
    ) -> Result<Option<Tensor>> {
        let Device::Cuda(device) = q.device() else { return Ok(None) };
        let capability = device.cuda_stream().context().compute_capability();
        let capability = capability.map_err(|e| failed(format!("the GPU does not answer: {e}")))?;
        let alike =
            |t: &Tensor| t.dtype() == q.dtype() && t.is_contiguous() && t.layout().start_offset().is_multiple_of(8);
        let aligned = [q, k, v].into_iter().all(alike);
        let operands = Operands { dtype: q.dtype(), heads: heads.h, width: heads.dh, aligned, capability };
        if !serves(&operands, args) {
            return Ok(None);
        }
        static RUNS: OnceLock<bool> = OnceLock::new();
        let runs = match RUNS.get() {
            Some(&runs) => runs,
            None => probe(q.device())?,
        };
        match *RUNS.get_or_init(|| runs) {
            true => Ok(Some(attend(q, k, v, args)?)),
            false => {
                let (major, minor) = capability;
                let how = format!("build with launch/build-cuda --flash-attn, or with CUDA_COMPUTE_CAP={major}{minor}");
                Err(failed(format!("candle-flash-attn was not compiled for compute capability {major}.{minor}: {how}")))
            }
        }
    }

    fn failed(message: String) -> Error {
        Error::Value { op: OP, message }
    }

    fn attend(q: &Tensor, k: &Tensor, v: &Tensor, args: &Attention) -> Result<Tensor> {
        let (q_offsets, k_offsets) = (args.q_seq.device(q)?, args.k_seq.device(q)?);
        let (most_queries, most_keys) = (args.q_seq.max_len(), args.k_seq.max_len());
        let (scale, causal) = (args.scale, args.causal);
        Ok(candle_flash_attn::flash_attn_varlen(
            q,
            k,
            v,
            &q_offsets,
            &k_offsets,
            most_queries,
            most_keys,
            scale,
            causal,
        )?)
    }

    /// Whether its kernels run on `device`: one query over one key gives its value. Where it has none for that GPU it says nothing, and its
    /// output is what was in memory.
    fn probe(device: &Device) -> Result<bool> {
        let value: Vec<f32> = (1..=64).map(|i| i as f32).collect();
        let v = Tensor::from_slice(&value, (1, 1, 64), device)?.to_dtype(DType::BF16)?;
        let zeros = v.zeros_like()?;
        let seq = SeqLens::from_lens([1]);
        let args = Attention { q_seq: &seq, k_seq: &seq, causal: false, scale: 1.0, dropout: None };
        let out = attend(&zeros, &zeros, &v, &args)?;
        Ok(out.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()? == value)
    }
}
