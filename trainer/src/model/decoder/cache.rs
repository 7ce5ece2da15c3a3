//! Keys and values of what has been read, for generation.

use candle_core::Tensor;
use echat_kernels::SeqLens;
use echat_kernels::attention::{self, Attention};

use super::Architecture;
use crate::autograd::{Error, Result};

/// Per layer and sequence, keys and values `[capacity, hk, dh]` of which the first `lens` rows are filled.
pub struct KvCache {
    layers: Vec<Vec<(Tensor, Tensor)>>,
    lens: Vec<usize>,
    capacity: usize,
}

impl KvCache {
    pub(super) fn new(a: &Architecture, count: usize, capacity: usize, like: &Tensor) -> Result<Self> {
        let capacity = capacity.min(a.max_positions);
        let empty = || Tensor::zeros((capacity, a.kv_heads, a.head_dim), like.dtype(), like.device());
        let layers = (0..a.layers)
            .map(|_| (0..count).map(|_| Ok((empty()?, empty()?))).collect::<candle_core::Result<Vec<_>>>())
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { layers, lens: vec![0; count], capacity })
    }

    /// How many more tokens sequence `i` can take.
    pub fn room(&self, i: usize) -> usize {
        self.capacity - self.lens[i]
    }

    /// The positions of the rows packed by `seq`.
    pub(super) fn positions(&self, seq: &SeqLens) -> Vec<u32> {
        self.lens.iter().zip(seq.lens()).flat_map(|(&from, len)| from as u32..(from + len) as u32).collect()
    }

    /// Adds k, v `[t, hk, dh]` and attends with q `[t, h, dh]`, both packed by `seq`.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        seq: &SeqLens,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        scale: f32,
    ) -> Result<Tensor> {
        let mut outputs = Vec::with_capacity(seq.count());
        for (i, range) in seq.ranges().enumerate().filter(|(_, r)| !r.is_empty()) {
            if range.len() > self.room(i) {
                return Err(Error::Model(format!("sequence {i} does not fit the cache of {} tokens", self.capacity)));
            }
            let (keys, values) = &self.layers[layer][i];
            let from = self.lens[i];
            let rows = |t: &Tensor| t.narrow(0, range.start, range.len());
            keys.slice_set(&rows(k)?, 0, from)?;
            values.slice_set(&rows(v)?, 0, from)?;
            let len = from + range.len();
            let (q_seq, k_seq) = (SeqLens::from_lens([range.len()]), SeqLens::from_lens([len]));
            let args = Attention { q_seq: &q_seq, k_seq: &k_seq, causal: true, scale, dropout: None };
            let (keys, values) = (keys.narrow(0, 0, len)?, values.narrow(0, 0, len)?);
            outputs.push(attention::infer(&rows(q)?, &keys, &values, &args)?);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }

    /// The rows packed by `seq` have been read by every layer.
    pub(super) fn advance(&mut self, seq: &SeqLens) {
        for (len, more) in self.lens.iter_mut().zip(seq.lens()) {
            *len += more;
        }
    }
}
