//! Corpus BLEU over characters (Papineni et al. 2002), as usual for Chinese: clipped n-gram precisions, geometric mean, brevity
//! penalty, no smoothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Longest n-gram counted.
const MAX_N: usize = 4;

/// N-gram matches summed over a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bleu {
    matches: [u64; MAX_N],
    totals: [u64; MAX_N],
    hypothesis: u64,
    reference: u64,
}

impl Bleu {
    /// Adds one sentence pair.
    pub fn add(&mut self, reference: &[char], hypothesis: &[char]) {
        self.hypothesis += hypothesis.len() as u64;
        self.reference += reference.len() as u64;
        for n in 1..=MAX_N {
            let available = grams(reference, n);
            for (gram, count) in grams(hypothesis, n) {
                self.totals[n - 1] += count;
                self.matches[n - 1] += count.min(available.get(gram).copied().unwrap_or(0));
            }
        }
    }

    /// Adds another corpus's counts.
    pub fn merge(&mut self, other: &Self) {
        for n in 0..MAX_N {
            self.matches[n] += other.matches[n];
            self.totals[n] += other.totals[n];
        }
        self.hypothesis += other.hypothesis;
        self.reference += other.reference;
    }

    /// BLEU over n-grams up to `n` (1 to 4), 0 to 100. 0 if some order has no match.
    pub fn score(&self, n: usize) -> f64 {
        let orders = &self.matches[..n.clamp(1, MAX_N)];
        if orders.contains(&0) {
            return 0.0;
        }
        let mean = orders.iter().zip(&self.totals).map(|(&m, &t)| (m as f64 / t as f64).ln()).sum::<f64>()
            / orders.len() as f64;
        let brevity = (1.0 - self.reference as f64 / self.hypothesis as f64).min(0.0);
        100.0 * (mean + brevity).exp()
    }
}

fn grams(text: &[char], n: usize) -> BTreeMap<&[char], u64> {
    let mut counts = BTreeMap::new();
    for gram in text.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::Bleu;

    fn bleu(pairs: &[(&str, &str)]) -> Bleu {
        let mut total = Bleu::default();
        for (reference, hypothesis) in pairs {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            total.add(&chars(reference), &chars(hypothesis));
        }
        total
    }

    #[test]
    fn equal_texts_score_100_and_disjoint_ones_0() {
        let same = bleu(&[("今天天气很好", "今天天气很好")]);
        assert!((same.score(1) - 100.0).abs() < 1e-9 && (same.score(4) - 100.0).abs() < 1e-9);
        assert_eq!(bleu(&[("今天天气", "明日风雨")]).score(1), 0.0);
        assert_eq!(bleu(&[("今天天气", "")]).score(4), 0.0);
    }

    #[test]
    fn agrees_with_a_hand_computed_corpus() {
        // Unigrams 6/7 (the second "a" is clipped), bigrams 3/5, brevity exp(1 - 8/7).
        let b = bleu(&[("abcde", "abcd"), ("xya", "aax")]);
        let brevity = (1.0f64 - 8.0 / 7.0).exp();
        assert!((b.score(1) - 100.0 * brevity * (6.0 / 7.0)).abs() < 1e-9, "{}", b.score(1));
        let two = 100.0 * brevity * (6.0f64 / 7.0 * (3.0 / 5.0)).sqrt();
        assert!((b.score(2) - two).abs() < 1e-9, "{} {two}", b.score(2));
    }

    #[test]
    fn merging_parts_equals_the_whole() {
        let (mut a, b) = (bleu(&[("abcde", "abcd")]), bleu(&[("xya", "aax")]));
        a.merge(&b);
        assert_eq!(a, bleu(&[("abcde", "abcd"), ("xya", "aax")]));
    }
}
