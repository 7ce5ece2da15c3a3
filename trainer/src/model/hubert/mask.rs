//! Masking in training, as SpecAugment does it: spans of frames replaced by a learned embedding, spans of features set to zero.

use std::collections::BTreeSet;

use echat_kernels::rng;

use crate::autograd::StepRng;
use crate::nn::Packed;

/// transformers' `_compute_mask_indices` in distribution, drawn per utterance: `⌊prob·len/length + u⌋` spans, at least `min_masks`,
/// at distinct starts, possibly overlapping. An axis shorter than a span is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    pub prob: f64,
    pub length: usize,
    pub min_masks: usize,
}

impl Spans {
    /// The masked rows of a packed batch, in increasing order.
    pub fn rows(&self, step: StepRng, frames: &Packed) -> Vec<u32> {
        let streams = step.streams(rng::site("encoder.mask_time"), &frames.samples);
        let masked = |(range, stream): (std::ops::Range<usize>, u64)| {
            self.places(range.len(), stream).map(move |frame| (range.start + frame) as u32)
        };
        frames.seq.ranges().zip(streams).flat_map(masked).collect()
    }

    /// The masked columns of each sequence of a packed batch of `width` features, in increasing order.
    pub fn columns(&self, step: StepRng, frames: &Packed, width: usize) -> Vec<Vec<u32>> {
        let streams = step.streams(rng::site("encoder.mask_feature"), &frames.samples);
        streams.into_iter().map(|stream| self.places(width, stream).map(|column| column as u32).collect()).collect()
    }

    /// What is masked of `len` places, in increasing order.
    fn places(&self, len: usize, stream: u64) -> impl Iterator<Item = usize> {
        let (length, mut next) = (self.length, 0);
        self.starts(len, stream).into_iter().flat_map(move |start| {
            let span = start.max(next)..start + length;
            next = span.end;
            span
        })
    }

    /// Distinct starts of spans within `len` places, in increasing order.
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
        let mask = Spans { prob: 0.5, length: 4, min_masks: 2 };
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
        let mask = Spans { prob: 0.3, length: 10, min_masks: 0 };
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
        let mask = Spans { prob: 0.0, length: 10, min_masks: 2 };
        for (len, expected) in [(9, 0), (10, 1), (19, 1), (20, 2), (500, 2)] {
            assert_eq!(mask.starts(len, 5).len(), expected, "{len} frames");
        }
    }

    #[test]
    fn columns_follow_the_sample_and_are_spans() {
        let mask = Spans { prob: 0.4, length: 4, min_masks: 1 };
        let columns = |samples: &[u64]| {
            let lens: Vec<usize> = samples.iter().map(|s| *s as usize % 3).collect();
            mask.columns(StepRng::new(3, 9), &packed(&lens, samples), 33)
        };
        let (alone, among) = (columns(&[7]), columns(&[1, 7, 2]));
        assert_eq!(alone[0], among[1]);
        assert_ne!(among[0], among[1]);
        for masked in &among {
            assert!(
                masked.len() >= 4 && masked.is_sorted_by(|a, b| a < b) && masked.iter().all(|&c| c < 33),
                "{masked:?}"
            );
            let alone = |c: &&u32| !masked.contains(&(*c + 1)) && (**c == 0 || !masked.contains(&(*c - 1)));
            assert_eq!(masked.iter().find(alone), None, "spans of 4: {masked:?}");
        }
    }
}
