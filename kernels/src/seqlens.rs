//! Where each sequence of a packed batch begins and ends.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
#[cfg(any(feature = "cuda", feature = "emulate"))]
use std::sync::{Mutex, OnceLock, PoisonError};

#[cfg(any(feature = "cuda", feature = "emulate"))]
use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use crate::{Error, Result, cuda};

/// Cumulative sequence lengths (`cu_seqlens`): `n + 1` row offsets, the first 0, never decreasing.
///
/// Sequence `i` is rows `offsets[i]..offsets[i + 1]` of the packed tensor; nothing lies between sequences.
#[derive(Clone)]
pub struct SeqLens(Arc<Inner>);

struct Inner {
    offsets: Box<[usize]>,
    /// The offsets as kernels read them, once some did.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    device: OnceLock<Tensor>,
    /// What [`SeqLens::tiles`] gave.
    #[cfg(any(feature = "cuda", feature = "emulate"))]
    tiles: Mutex<Vec<(usize, Cost, Tensor)>>,
}

/// Which tiles of a sequence are the most work.
#[cfg(any(feature = "cuda", feature = "emulate"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// All alike.
    Even,
    /// The last.
    Rising,
    /// The first.
    Falling,
}

impl PartialEq for SeqLens {
    fn eq(&self, other: &Self) -> bool {
        self.0.offsets == other.0.offsets
    }
}

impl Eq for SeqLens {}

impl fmt::Debug for SeqLens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SeqLens").field(&self.0.offsets).finish()
    }
}

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
            offsets: offsets.into(),
            #[cfg(any(feature = "cuda", feature = "emulate"))]
            device: OnceLock::new(),
            #[cfg(any(feature = "cuda", feature = "emulate"))]
            tiles: Mutex::default(),
        }))
    }

    /// The number of sequences.
    pub fn count(&self) -> usize {
        self.0.offsets.len() - 1
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

#[cfg(any(feature = "cuda", feature = "emulate"))]
impl SeqLens {
    /// The offsets as u32 on the device of `like`: uploaded once for the first device that asks.
    pub(crate) fn device(&self, like: &Tensor) -> Result<Tensor> {
        if u32::try_from(self.total()).is_err() {
            let message = format!("{} rows are too many for kernels", self.total());
            return Err(Error::Value { op: "sequences", message });
        }
        cuda::kept(&self.0.device, like, || self.offsets().iter().map(|&row| row as u32).collect())
    }

    /// The sequences cut into tiles of `size` rows, on the device of `like`: the sequence and the first row in it of each
    /// tile [tiles, 2] u32, the most work first. Uploaded once for each device, size and cost.
    pub(crate) fn tiles(&self, size: usize, cost: Cost, like: &Tensor) -> Result<Tensor> {
        let mut kept = self.0.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|(s, c, t)| (*s, *c) == (size, cost) && t.device().same_device(like.device()));
        if let Some((_, _, tiles)) = found {
            return Ok(tiles.clone());
        }
        let mut tiles: Vec<(usize, usize)> =
            (0..self.count()).flat_map(|s| (0..self.len_of(s)).step_by(size).map(move |first| (s, first))).collect();
        tiles.sort_by_key(|&(s, first)| {
            std::cmp::Reverse(match cost {
                Cost::Even => self.len_of(s),
                Cost::Rising => first + size,
                Cost::Falling => self.len_of(s) - first,
            })
        });
        let count = tiles.len();
        if tiles.is_empty() {
            tiles.push((0, 0)); // No device gives memory of no bytes.
        }
        let flat: Vec<u32> = tiles.iter().flat_map(|&(s, first)| [narrow(s), narrow(first)]).collect::<Result<_>>()?;
        let uploaded = cuda::upload(&flat, like)?.reshape((tiles.len(), 2))?.narrow(0, 0, count)?;
        kept.push((size, cost, uploaded.clone()));
        Ok(uploaded)
    }
}

#[cfg(any(feature = "cuda", feature = "emulate"))]
fn narrow(row: usize) -> Result<u32> {
    u32::try_from(row)
        .map_err(|_| Error::Value { op: "seqlens", message: format!("{row} rows of packed sequences are too many") })
}
