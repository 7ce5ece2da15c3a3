//! Where each sequence of a packed batch begins and ends.

use std::ops::Range;
use std::sync::Arc;
#[cfg(any(feature = "cuda", feature = "emulate"))]
use std::sync::OnceLock;

/// Cumulative sequence lengths (`cu_seqlens`): `n + 1` row offsets, the first 0, never decreasing.
///
/// Sequence `i` is rows `offsets[i]..offsets[i + 1]` of the packed tensor; nothing lies between sequences.
#[derive(Clone, Debug)]
pub struct SeqLens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    offsets: Vec<usize>,
    /// The offsets where kernels see them, once they were wanted there.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    device: OnceLock<candle_core::Tensor>,
}

impl PartialEq for SeqLens {
    fn eq(&self, other: &Self) -> bool {
        self.offsets() == other.offsets()
    }
}

impl Eq for SeqLens {}

impl SeqLens {
    /// From the length of each sequence, in rows.
    pub fn from_lens(lens: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for len in lens {
            end += len;
            offsets.push(end);
        }
        Self(Arc::new(Inner {
            offsets,
            #[cfg(any(feature = "cuda", feature = "emulate"))]
            device: OnceLock::new(),
        }))
    }

    /// The offsets [n + 1] u32 on the device of `like`, sent there once.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    pub(crate) fn device(&self, like: &candle_core::Tensor) -> crate::Result<candle_core::Tensor> {
        if u32::try_from(self.total()).is_err() {
            let message = format!("{} rows are too many for kernels", self.total());
            return Err(crate::Error::Value { op: "sequences", message });
        }
        crate::cuda::kept(&self.0.device, like, || self.offsets().iter().map(|&offset| offset as u32).collect())
    }

    /// The number of sequences.
    pub fn count(&self) -> usize {
        self.offsets().len() - 1
    }

    /// The number of rows of the packed tensor.
    pub fn total(&self) -> usize {
        self.0.offsets[self.count()]
    }

    /// The rows of sequence `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.0.offsets[i]..self.0.offsets[i + 1]
    }

    /// The number of rows of sequence `i`.
    pub fn len_of(&self, i: usize) -> usize {
        self.0.offsets[i + 1] - self.0.offsets[i]
    }

    /// The rows of each sequence in turn.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        (0..self.count()).map(|i| self.range(i))
    }

    /// The lengths of the sequences.
    pub fn lens(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.count()).map(|i| self.len_of(i))
    }

    /// The longest sequence's length; 0 for none.
    pub fn max_len(&self) -> usize {
        self.lens().max().unwrap_or(0)
    }

    /// The `n + 1` offsets.
    pub fn offsets(&self) -> &[usize] {
        &self.0.offsets
    }
}
