//! Character error rate.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// What is made equal before characters are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Nothing.
    None,
    /// Full-width to ASCII and other compatibility forms (NFKC), lower case, no white space, no punctuation.
    Mandarin,
}

impl Normalize {
    /// The characters of `text` that count.
    pub fn characters(self, text: &str) -> Vec<char> {
        match self {
            Self::None => text.chars().collect(),
            Self::Mandarin => text.nfkc().flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric()).collect(),
        }
    }
}

/// Edits between hypotheses and references, summed over utterances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditCounts {
    /// Reference characters replaced by others.
    pub substitutions: u64,
    /// Reference characters missing.
    pub deletions: u64,
    /// Characters too many.
    pub insertions: u64,
    /// Reference characters.
    pub reference: u64,
}

impl EditCounts {
    /// Adds another utterance's.
    pub fn add(&mut self, other: Self) {
        self.substitutions += other.substitutions;
        self.deletions += other.deletions;
        self.insertions += other.insertions;
        self.reference += other.reference;
    }

    /// (S + D + I) / N; `None` without reference characters.
    pub fn rate(&self) -> Option<f64> {
        let errors = self.substitutions + self.deletions + self.insertions;
        (self.reference > 0).then(|| errors as f64 / self.reference as f64)
    }
}

/// The fewest edits that turn `reference` into `hypothesis` (Levenshtein; among equals, substitutions first).
pub fn edits(reference: &[char], hypothesis: &[char]) -> EditCounts {
    // One row of (cost, substitutions, deletions, insertions) at a time.
    let mut row: Vec<[u64; 4]> = (0..=hypothesis.len() as u64).map(|j| [j, 0, 0, j]).collect();
    for (i, r) in reference.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = [i as u64 + 1, 0, i as u64 + 1, 0];
        for (j, h) in hypothesis.iter().enumerate() {
            let above = row[j + 1];
            let mut best = diagonal;
            if r != h {
                best[0] += 1;
                best[1] += 1;
            }
            if above[0] + 1 < best[0] {
                best = [above[0] + 1, above[1], above[2] + 1, above[3]];
            }
            let left = row[j];
            if left[0] + 1 < best[0] {
                best = [left[0] + 1, left[1], left[2], left[3] + 1];
            }
            row[j + 1] = best;
            diagonal = above;
        }
    }
    let [_, substitutions, deletions, insertions] = row[hypothesis.len()];
    EditCounts { substitutions, deletions, insertions, reference: reference.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(reference: &str, hypothesis: &str) -> EditCounts {
        edits(&Normalize::Mandarin.characters(reference), &Normalize::Mandarin.characters(hypothesis))
    }

    #[test]
    fn counts_each_kind_of_edit() {
        let c = count("明年就要换新工作了", "明年就换新的工做了");
        assert_eq!((c.substitutions, c.deletions, c.insertions, c.reference), (1, 1, 1, 9));
        assert_eq!(c.rate(), Some(3.0 / 9.0));
    }

    #[test]
    fn empty_sides_are_all_deletions_or_insertions() {
        assert_eq!(count("你好", ""), EditCounts { deletions: 2, reference: 2, ..EditCounts::default() });
        assert_eq!(count("", "你好").insertions, 2);
        assert_eq!(count("", "你好").rate(), None);
    }

    #[test]
    fn width_case_space_and_punctuation_do_not_count() {
        assert_eq!(count("Ａ股，涨 了。", "a股涨了").rate(), Some(0.0));
        assert_eq!(edits(&Normalize::None.characters("a，"), &Normalize::None.characters("a")).deletions, 1);
    }

    #[test]
    fn cost_equals_the_textbook_distance_on_all_short_strings() {
        fn distance(a: &[char], b: &[char]) -> u64 {
            match (a, b) {
                ([], rest) | (rest, []) => rest.len() as u64,
                ([x, a @ ..], [y, b @ ..]) => {
                    let change = distance(a, b) + u64::from(x != y);
                    change.min(distance(a, &[&[*y], b].concat()) + 1).min(distance(&[&[*x], a].concat(), b) + 1)
                }
            }
        }
        let strings: Vec<Vec<char>> =
            ["", "a", "ab", "ba", "aab", "bab", "abba", "bbaa"].iter().map(|s| s.chars().collect()).collect();
        for a in &strings {
            for b in &strings {
                let c = edits(a, b);
                assert_eq!(c.substitutions + c.deletions + c.insertions, distance(a, b), "{a:?} {b:?}");
                assert_eq!(a.len() as u64 + c.insertions, b.len() as u64 + c.deletions, "{a:?} {b:?}");
            }
        }
    }
}
