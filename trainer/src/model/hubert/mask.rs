//! Time masking: spans of frames replaced by a learned embedding in training.

use std::collections::BTreeSet;

use echat_kernels::rng;

use crate::autograd::StepRng;
use crate::nn::Packed;

/// transformers' `_compute_mask_indices` in distribution, drawn per utterance: `⌊prob·len/length + u⌋` spans, at least `min_masks`,
/// at distinct starts, possibly overlapping. An utterance shorter than a span is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeMask {
    pub prob: f64,
    pub length: usize,
    pub min_masks: usize,
}

impl TimeMask {
    /// The masked rows of a packed batch, in increasing order.
    pub fn rows(&self, step: StepRng, frames: &Packed) -> Vec<u32> {
        let streams = step.streams(rng::site("encoder.mask_time"), &frames.samples);
        let mut rows = Vec::new();
        for (range, stream) in frames.seq.ranges().zip(streams) {
            let mut next = 0;
            for start in self.starts(range.len(), stream) {
                rows.extend((start.max(next)..start + self.length).map(|frame| (range.start + frame) as u32));
                next = start + self.length;
            }
        }
        rows
    }

    /// Distinct starts of spans within `len` frames, in increasing order.
    fn starts(&self, len: usize, stream: u64) -> BTreeSet<usize> {
        let candidates = (len + 1).saturating_sub(self.length);
        let rounding = rng::uniform(rng::key(stream, 0));
        let drawn = (self.prob * len as f64 / self.length as f64 + rounding) as usize;
        let count = drawn.max(self.min_masks).min(len / self.length).min(candidates);
        // Floyd's sampling without replacement.
        let mut starts = BTreeSet::new();
        for last in candidates - count..candidates {
            let pick = (rng::uniform(rng::key(stream, 1 + last as u64)) * (last + 1) as f64) as usize;
            if !starts.insert(pick) {
                starts.insert(last);
            }
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::SeqLens;

    fn packed(lens: &[usize], samples: &[u64]) -> Packed {
        Packed { seq: SeqLens::from_lens(lens.iter().copied()), samples: samples.into() }
    }

    #[test]
    fn masks_follow_the_sample_not_the_packing() {
        let mask = TimeMask { prob: 0.5, length: 4, min_masks: 2 };
        let step = StepRng::new(3, 9);
        let alone = mask.rows(step, &packed(&[50], &[7]));
        let among = mask.rows(step, &packed(&[21, 0, 50, 3], &[1, 2, 7, 4]));
        let shifted: Vec<u32> = alone.iter().map(|r| r + 21).collect();
        let own: Vec<u32> = among.iter().copied().filter(|&r| (21..71).contains(&r)).collect();
        assert_eq!(own, shifted);
        assert!(among.is_sorted_by(|a, b| a < b), "rows increase");
        assert!(among.iter().all(|&r| r < 71), "3 frames hold no span of 4");
        assert_ne!(alone, mask.rows(StepRng::new(3, 10), &packed(&[50], &[7])), "another step, another mask");
    }

    #[test]
    fn the_number_of_spans_and_masked_frames_is_as_in_transformers() {
        // E[spans] = prob·len/length; starts uniform over len - length + 1.
        let mask = TimeMask { prob: 0.3, length: 10, min_masks: 0 };
        let (len, trials) = (105, 20_000);
        let (mut spans, mut first_half) = (0usize, 0usize);
        for sample in 0..trials {
            let starts = mask.starts(len, rng::key(11, sample));
            assert!(starts.iter().all(|s| s + 10 <= len));
            spans += starts.len();
            first_half += starts.iter().filter(|&&s| s < 48).count();
        }
        let mean = spans as f64 / trials as f64;
        assert!((mean - 3.15).abs() < 0.02, "{mean} spans");
        let share = first_half as f64 / spans as f64;
        assert!((share - 0.5).abs() < 0.01, "{share} of the starts in the first half");
    }

    #[test]
    fn the_minimum_holds_where_spans_fit() {
        let mask = TimeMask { prob: 0.0, length: 10, min_masks: 2 };
        for (len, expected) in [(9, 0), (10, 1), (19, 1), (20, 2), (500, 2)] {
            assert_eq!(mask.starts(len, 5).len(), expected, "{len} frames");
        }
    }
}
