//! Where each sequence of a packed batch begins and ends.

use std::ops::Range;
use std::sync::Arc;

/// Cumulative sequence lengths (`cu_seqlens`): `n + 1` row offsets, the first 0, never decreasing.
///
/// Sequence `i` is rows `offsets[i]..offsets[i + 1]` of the packed tensor; nothing lies between sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqLens(Arc<[usize]>);

impl SeqLens {
    /// From the length of each sequence, in rows.
    pub fn from_lens(lens: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut end = 0;
        for len in lens {
            end += len;
            offsets.push(end);
        }
        Self(offsets.into())
    }

    /// The number of sequences.
    pub fn count(&self) -> usize {
        self.0.len() - 1
    }

    /// The number of rows of the packed tensor.
    pub fn total(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    /// The rows of sequence `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.0[i]..self.0[i + 1]
    }

    /// The number of rows of sequence `i`.
    pub fn len_of(&self, i: usize) -> usize {
        self.0[i + 1] - self.0[i]
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
        &self.0
    }
}
