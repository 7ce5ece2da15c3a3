//! What a corpus holds: entries, hours and shares by emotion (the paper's Table 1), and by speaker.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::audio::SAMPLE_RATE;
use super::emotion::Emotion;

/// Entries and their speech.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub entries: u64,
    /// Samples at 16 kHz: whole numbers, so that no order of adding matters.
    pub samples: u64,
}

impl Tally {
    fn add(&mut self, samples: u64) {
        self.entries += 1;
        self.samples += samples;
    }

    /// Hours of speech.
    pub fn hours(self) -> f64 {
        self.seconds() / 3600.0
    }

    /// Seconds of speech.
    pub fn seconds(self) -> f64 {
        self.samples as f64 / f64::from(SAMPLE_RATE)
    }
}

impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("entries", &self.entries)?;
        map.serialize_entry("seconds", &self.seconds())?;
        map.end()
    }
}

/// Statistics of a corpus or of one part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// All of it.
    pub total: Tally,
    /// By emotion; `none` are those without.
    pub emotions: BTreeMap<&'static str, Tally>,
    /// By speaker; those without are left out.
    pub speakers: BTreeMap<String, Tally>,
}

impl Stats {
    /// Counts one utterance of `samples` samples at 16 kHz.
    pub fn add(&mut self, samples: u64, emotion: Option<Emotion>, speaker: Option<&str>) {
        self.total.add(samples);
        self.emotions.entry(emotion.map_or(NONE, Emotion::name)).or_default().add(samples);
        if let Some(speaker) = speaker {
            self.speakers.entry(speaker.into()).or_default().add(samples);
        }
    }

    /// Of an emotion.
    fn emotion(&self, name: &str) -> Tally {
        self.emotions.get(name).copied().unwrap_or_default()
    }
}

/// The label of utterances without emotion.
const NONE: &str = "none";

/// The paper's Table 1 for each part: entries, hours, and the share of the hours, by emotion. An emotion nobody has is left out.
pub fn table<'a>(parts: impl IntoIterator<Item = (&'a str, &'a Stats)>) -> String {
    let mut text = format!("{:<14} {:<10} {:>8} {:>9} {:>10}\n", "part", "emotion", "entries", "hours", "% of hours");
    for (part, stats) in parts {
        let mut row = |name: &str, tally: Tally| {
            let share = 100.0 * tally.samples as f64 / stats.total.samples.max(1) as f64;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{part:<14} {name:<10} {:>8} {:>9.2} {share:>10.1}", tally.entries, tally.hours());
        };
        let names = Emotion::ALL.map(Emotion::name).into_iter().chain([NONE]);
        names.filter(|name| stats.emotion(name).entries > 0).for_each(|name| row(name, stats.emotion(name)));
        row("sum", stats.total);
        if !stats.speakers.is_empty() {
            let _ = writeln!(text, "{part:<14} {} speakers", stats.speakers.len());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn example() -> Stats {
        let mut stats = Stats::default();
        stats.add(3 * 3600 * 16_000, Some(Emotion::Sad), Some("b"));
        stats.add(3600 * 16_000, Some(Emotion::Cheerful), Some("a"));
        stats.add(0, None, None);
        stats
    }

    #[test]
    fn the_table_has_a_row_per_emotion_and_percentages_of_the_hours() {
        let wanted = "\
part           emotion     entries     hours % of hours
train          cheerful          1      1.00       25.0
train          sad               1      3.00       75.0
train          none              1      0.00        0.0
train          sum               3      4.00      100.0
train          2 speakers
empty          sum               0      0.00        0.0
";
        assert_eq!(table([("train", &example()), ("empty", &Stats::default())]), wanted);
    }

    #[test]
    fn json_holds_entries_and_seconds() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(json["total"], serde_json::json!({"entries": 3, "seconds": 14400.0}));
        assert_eq!(json["emotions"]["sad"], serde_json::json!({"entries": 1, "seconds": 10800.0}));
        assert_eq!(json["speakers"]["a"]["entries"], 1);
    }
}
