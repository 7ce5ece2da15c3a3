//! Emotion accuracy and confusion.

use serde::{Deserialize, Serialize};

use crate::data::emotion::Emotion;

const CLASSES: usize = Emotion::ALL.len();

/// How often each true class (row) was recognised as each class (column).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// `[true][predicted]`.
    pub counts: [[u64; CLASSES]; CLASSES],
}

impl Confusion {
    /// Counts one utterance.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        self.counts[truth][predicted] += 1;
    }

    /// Adds another matrix.
    pub fn merge(&mut self, other: &Self) {
        for (row, more) in self.counts.iter_mut().zip(&other.counts) {
            row.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        }
    }

    /// Utterances.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// The share on the diagonal; `None` without utterances.
    pub fn accuracy(&self) -> Option<f64> {
        let right: u64 = (0..CLASSES).map(|i| self.counts[i][i]).sum();
        (self.total() > 0).then(|| right as f64 / self.total() as f64)
    }

    /// Mean over the classes present of the share of each that was recognised (unweighted accuracy).
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let recalls: Vec<f64> = (0..CLASSES)
            .filter_map(|i| {
                let total: u64 = self.counts[i].iter().sum();
                (total > 0).then(|| self.counts[i][i] as f64 / total as f64)
            })
            .collect();
        (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64)
    }

    /// The matrix as a table: a row per true class.
    pub fn table(&self) -> String {
        let mut text = format!("{:>10} ", "said as");
        Emotion::ALL.iter().for_each(|e| text.push_str(&format!("{:>9}", e.name())));
        for (emotion, row) in Emotion::ALL.iter().zip(&self.counts) {
            text.push_str(&format!("\n{:>10} ", emotion.name()));
            row.iter().for_each(|n| text.push_str(&format!("{n:>9}")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Confusion;

    #[test]
    fn accuracies_weigh_utterances_or_classes() {
        let mut c = Confusion::default();
        assert_eq!((c.accuracy(), c.balanced_accuracy()), (None, None));
        for _ in 0..3 {
            c.add(0, 0);
        }
        c.add(4, 0);
        assert_eq!(c.accuracy(), Some(0.75));
        assert_eq!(c.balanced_accuracy(), Some(0.5));
        let mut twice = c;
        twice.merge(&c);
        assert_eq!(twice.total(), 8);
        assert!(c.table().lines().nth(5).is_some_and(|l| l.trim_start().starts_with("neutral")), "{}", c.table());
    }
}
