//! What an evaluation found, as JSON and as a table.

use serde::{Deserialize, Serialize};

use super::{Bleu, Confusion, EditCounts, Normalize, edits};

/// Counts over utterances; ranks' counts add up to the whole's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Utterances.
    pub utterances: u64,
    /// Speech in seconds.
    pub seconds: f64,
    /// Edits between what was said and what the model wrote (target text).
    pub edits: Option<EditCounts>,
    /// N-gram matches between reference and model responses (target response).
    pub bleu: Option<Bleu>,
    /// Recognised emotions.
    pub confusion: Option<Confusion>,
    /// Cross-entropy over target tokens, nats, summed.
    pub decoder_loss: f64,
    /// Target tokens.
    pub tokens: f64,
    /// Cross-entropy over emotions, nats, summed.
    pub emotion_loss: f64,
    /// The same words in two emotions, answered.
    pub pairs: Option<Pairs>,
}

/// The same words spoken in two emotions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// Pairs.
    pub total: u64,
    /// Pairs with two different answers, each nearer (in edits) to its own reference than to the other's.
    pub fitting: u64,
}

impl Pairs {
    /// Counts one pair of (reference, answer).
    pub fn add(&mut self, one: (&str, &str), other: (&str, &str)) {
        let distance = |a: &str, b: &str| {
            let of = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<_>>();
            let e = edits(&of(a), &of(b));
            e.substitutions + e.deletions + e.insertions
        };
        let fits = |own: (&str, &str), others: &str| distance(own.0, own.1) < distance(others, own.1);
        self.total += 1;
        self.fitting += u64::from(one.1 != other.1 && fits(one, other.0) && fits(other, one.0));
    }
}

impl Counts {
    /// Adds one transcript.
    pub fn transcript(&mut self, reference: &str, hypothesis: &str) {
        let of = |text| Normalize::Mandarin.characters(text);
        self.edits.get_or_insert_default().add(edits(&of(reference), &of(hypothesis)));
    }

    /// Adds one response; punctuation counts, white space does not.
    pub fn response(&mut self, reference: &str, hypothesis: &str) {
        let of = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<_>>();
        self.bleu.get_or_insert_default().add(&of(reference), &of(hypothesis));
    }

    /// Adds another rank's.
    pub fn merge(&mut self, other: &Self) {
        self.utterances += other.utterances;
        self.seconds += other.seconds;
        if let Some(edits) = other.edits {
            self.edits.get_or_insert_default().add(edits);
        }
        if let Some(bleu) = &other.bleu {
            self.bleu.get_or_insert_default().merge(bleu);
        }
        if let Some(confusion) = &other.confusion {
            self.confusion.get_or_insert_default().merge(confusion);
        }
        if let Some(pairs) = other.pairs {
            let sum = self.pairs.get_or_insert_default();
            sum.total += pairs.total;
            sum.fitting += pairs.fitting;
        }
        self.decoder_loss += other.decoder_loss;
        self.tokens += other.tokens;
        self.emotion_loss += other.emotion_loss;
    }
}

/// The figures of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Utterances.
    pub utterances: u64,
    /// Hours of speech.
    pub hours: f64,
    /// Character error rate, percent.
    pub cer: Option<f64>,
    /// BLEU-1 over characters.
    pub bleu_1: Option<f64>,
    /// BLEU-4 over characters.
    pub bleu_4: Option<f64>,
    /// Emotions recognised, percent.
    pub emotion_accuracy: Option<f64>,
    /// The same, mean over the classes present.
    pub emotion_balanced_accuracy: Option<f64>,
    /// Pairs of the same words in two emotions with two fitting answers, percent.
    pub pairs_fitting: Option<f64>,
    /// Per target token, nats.
    pub decoder_loss: f64,
    /// Per utterance, nats.
    pub emotion_loss: Option<f64>,
    /// The counts behind the figures.
    pub counts: Counts,
}

impl Report {
    /// The figures of `counts`.
    pub fn new(counts: Counts) -> Self {
        let percent = |share: Option<f64>| share.map(|s| 100.0 * s);
        let confusion = counts.confusion;
        Self {
            utterances: counts.utterances,
            hours: counts.seconds / 3600.0,
            cer: percent(counts.edits.and_then(|e| e.rate())),
            bleu_1: counts.bleu.map(|b| b.score(1)),
            bleu_4: counts.bleu.map(|b| b.score(4)),
            emotion_accuracy: percent(confusion.and_then(|c| c.accuracy())),
            emotion_balanced_accuracy: percent(confusion.and_then(|c| c.balanced_accuracy())),
            pairs_fitting: percent(counts.pairs.map(|p| p.fitting as f64 / p.total.max(1) as f64)),
            decoder_loss: counts.decoder_loss / counts.tokens.max(1.0),
            emotion_loss: confusion.map(|c| counts.emotion_loss / (c.total() as f64).max(1.0)),
            counts,
        }
    }

    /// A line per figure, and the confusion matrix.
    pub fn table(&self) -> String {
        let mut lines = vec![format!("{:<28}{}", "utterances", self.utterances)];
        let mut line = |name: &str, value: Option<f64>, digits: usize| {
            if let Some(value) = value {
                lines.push(format!("{name:<28}{value:.digits$}"));
            }
        };
        line("hours of speech", Some(self.hours).filter(|h| *h > 0.0), 3);
        line("CER %", self.cer, 2);
        line("BLEU-1", self.bleu_1, 2);
        line("BLEU-4", self.bleu_4, 2);
        line("emotion accuracy %", self.emotion_accuracy, 2);
        line("  mean over classes %", self.emotion_balanced_accuracy, 2);
        line("pairs answered fittingly %", self.pairs_fitting, 2);
        line("decoder loss (nats/token)", Some(self.decoder_loss), 4);
        line("emotion loss (nats)", self.emotion_loss, 4);
        if let Some(edits) = &self.counts.edits {
            let EditCounts { substitutions, deletions, insertions, reference } = edits;
            lines.push(format!(
                "{:<28}{substitutions} substitutions, {deletions} deletions, {insertions} insertions of {reference}",
                "characters"
            ));
        }
        if let Some(confusion) = &self.counts.confusion {
            lines.push(confusion.table());
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole_and_survive_json() {
        let (mut a, mut b) = (Counts::default(), Counts::default());
        a.utterances = 1;
        a.transcript("今天很好", "今天很好");
        b.utterances = 1;
        b.seconds = 3600.0;
        b.transcript("明天见", "明天");
        b.response("好的，加油！", "好的，加油！");
        b.confusion.get_or_insert_default().add(3, 3);
        let b: Counts = serde_json::from_str(&serde_json::to_string(&b).unwrap()).unwrap();
        a.merge(&b);
        let report = Report::new(a);
        assert_eq!(report.cer, Some(100.0 * (1.0 / 7.0)));
        assert!((report.bleu_4.unwrap() - 100.0).abs() < 1e-9);
        assert_eq!((report.emotion_accuracy, report.hours, report.utterances), (Some(100.0), 1.0, 2));
        assert!(report.table().contains("CER %"), "{}", report.table());
    }

    #[test]
    fn a_pair_fits_if_the_answers_differ_and_each_is_nearer_its_own_reference() {
        let mut pairs = Pairs::default();
        pairs.add(("太好了", "太好啦"), ("别难过", "别难过"));
        pairs.add(("太好了", "太好了"), ("别难过", "太好了"));
        pairs.add(("太好了", "别难过"), ("别难过", "太好了"));
        assert_eq!(pairs, Pairs { total: 3, fitting: 1 });
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let report = Report::new(Counts::default());
        assert_eq!((report.cer, report.bleu_1, report.emotion_accuracy, report.emotion_loss), (None, None, None, None));
        assert!(!report.table().contains("CER"), "{}", report.table());
    }
}
