//! The five emotions of E-chat, and their ids.

use std::fmt;
use std::str::FromStr;

/// The emotion a question is spoken with. Its id, `as usize`, is the class of the emotion branch's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Emotion {
    /// Id 0.
    Cheerful,
    /// Id 1.
    Fearful,
    /// Id 2.
    Angry,
    /// Id 3.
    Sad,
    /// Id 4.
    Neutral,
}

impl Emotion {
    /// All of them, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::Cheerful, Self::Fearful, Self::Angry, Self::Sad, Self::Neutral];

    /// The name manifests and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cheerful => "cheerful",
            Self::Fearful => "fearful",
            Self::Angry => "angry",
            Self::Sad => "sad",
            Self::Neutral => "neutral",
        }
    }

    /// The emotion with class id `id`.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }
}

impl fmt::Display for Emotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Other words for the five, as label sets use them.
const SYNONYMS: [(&str, Emotion); 13] = [
    ("happy", Emotion::Cheerful),
    ("happiness", Emotion::Cheerful),
    ("joy", Emotion::Cheerful),
    ("fear", Emotion::Fearful),
    ("scared", Emotion::Fearful),
    ("anger", Emotion::Angry),
    ("sadness", Emotion::Sad),
    ("calm", Emotion::Neutral),
    ("开心", Emotion::Cheerful),
    ("害怕", Emotion::Fearful),
    ("生气", Emotion::Angry),
    ("难过", Emotion::Sad),
    ("中性", Emotion::Neutral),
];

/// A name that is none of the five.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown emotion `{0}`; it must be one of cheerful, fearful, angry, sad, neutral")]
pub struct UnknownEmotion(pub String);

impl FromStr for Emotion {
    type Err = UnknownEmotion;

    /// One of the five by name or a common word for it, in any case, also as a tag: `<HAPPY>`.
    fn from_str(name: &str) -> Result<Self, UnknownEmotion> {
        let word = name.trim().trim_start_matches('<').trim_end_matches('>').to_lowercase();
        let mut words = Self::ALL.into_iter().map(|e| (e.name(), e)).chain(SYNONYMS);
        words.find(|(known, _)| *known == word).map(|(_, e)| e).ok_or_else(|| UnknownEmotion(name.into()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_and_names_round_trip_in_the_paper_s_order() {
        let names: Vec<_> = Emotion::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names, ["cheerful", "fearful", "angry", "sad", "neutral"]);
        for (id, emotion) in Emotion::ALL.into_iter().enumerate() {
            assert_eq!(emotion as usize, id);
            assert_eq!(Emotion::from_id(id as u8), Some(emotion));
            assert_eq!(emotion.name().parse::<Emotion>().unwrap(), emotion);
        }
        assert_eq!(Emotion::from_id(5), None);
    }

    #[test]
    fn other_label_sets_are_understood() {
        for (name, emotion) in [("<HAPPY>", Emotion::Cheerful), ("Fear", Emotion::Fearful), ("生气", Emotion::Angry)]
        {
            assert_eq!(name.parse::<Emotion>().unwrap(), emotion);
        }
    }

    #[test]
    fn unknown_emotion_lists_the_five() {
        let message = "<DISGUST>".parse::<Emotion>().unwrap_err().to_string();
        assert_eq!(message, "unknown emotion `<DISGUST>`; it must be one of cheerful, fearful, angry, sad, neutral");
    }
}
