//! From Chinese characters to the syllables a speaker says: pinyin, and the zhuyin that names the recordings.

use pinyin::ToPinyin;
use std::fmt;

/// One Mandarin syllable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Syllable {
    /// Pinyin without tone, `ü` written as such: `zhong`, `lü`, `xue`.
    pub base: String,
    /// 1 to 4, or 5 for the neutral tone.
    pub tone: u8,
}

impl fmt::Display for Syllable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.base, self.tone)
    }
}

impl Syllable {
    /// Reads `zhong1`, `lü4`, `de5`; no digit is the neutral tone. None if the base is no Mandarin syllable.
    pub fn parse(pinyin: &str) -> Option<Self> {
        let base = pinyin.trim_end_matches(|c: char| c.is_ascii_digit());
        let tone = match &pinyin[base.len()..] {
            "" => 5,
            digit => digit.parse().ok().filter(|t| (1..=5).contains(t))?,
        };
        let syllable = Self { base: base.into(), tone };
        syllable.zhuyin().map(|_| syllable)
    }

    /// The crate's first reading of `character`.
    pub fn of(character: char) -> Option<Self> {
        Self::parse(character.to_pinyin()?.with_tone_num_end())
    }

    /// The syllable in zhuyin, without its tone; none if it is no Mandarin syllable.
    pub fn zhuyin(&self) -> Option<String> {
        let (initial, last) = split(&self.base)?;
        let last = FINALS.iter().find(|(latin, _)| *latin == last).map(|(_, z)| *z)?;
        Some(format!("{initial}{last}"))
    }
}

const INITIALS: [(&str, &str); 21] = [
    ("zh", "ㄓ"),
    ("ch", "ㄔ"),
    ("sh", "ㄕ"),
    ("b", "ㄅ"),
    ("p", "ㄆ"),
    ("m", "ㄇ"),
    ("f", "ㄈ"),
    ("d", "ㄉ"),
    ("t", "ㄊ"),
    ("n", "ㄋ"),
    ("l", "ㄌ"),
    ("g", "ㄍ"),
    ("k", "ㄎ"),
    ("h", "ㄏ"),
    ("j", "ㄐ"),
    ("q", "ㄑ"),
    ("x", "ㄒ"),
    ("r", "ㄖ"),
    ("z", "ㄗ"),
    ("c", "ㄘ"),
    ("s", "ㄙ"),
];

/// Finals as they are spelled behind an initial; the empty one is the vowel of `zhi`, `ci`, `ri`.
const FINALS: [(&str, &str); 37] = [
    ("", ""),
    ("a", "ㄚ"),
    ("o", "ㄛ"),
    ("e", "ㄜ"),
    ("ai", "ㄞ"),
    ("ei", "ㄟ"),
    ("ao", "ㄠ"),
    ("ou", "ㄡ"),
    ("an", "ㄢ"),
    ("en", "ㄣ"),
    ("ang", "ㄤ"),
    ("eng", "ㄥ"),
    ("er", "ㄦ"),
    ("i", "ㄧ"),
    ("ia", "ㄧㄚ"),
    ("ie", "ㄧㄝ"),
    ("iao", "ㄧㄠ"),
    ("iu", "ㄧㄡ"),
    ("ian", "ㄧㄢ"),
    ("in", "ㄧㄣ"),
    ("iang", "ㄧㄤ"),
    ("ing", "ㄧㄥ"),
    ("iong", "ㄩㄥ"),
    ("u", "ㄨ"),
    ("ua", "ㄨㄚ"),
    ("uo", "ㄨㄛ"),
    ("uai", "ㄨㄞ"),
    ("ui", "ㄨㄟ"),
    ("uan", "ㄨㄢ"),
    ("un", "ㄨㄣ"),
    ("uang", "ㄨㄤ"),
    ("ong", "ㄨㄥ"),
    ("ü", "ㄩ"),
    ("üe", "ㄩㄝ"),
    ("üan", "ㄩㄢ"),
    ("ün", "ㄩㄣ"),
    ("ueng", "ㄨㄥ"),
];

/// Zhuyin initial, and the final spelled as in [`FINALS`].
fn split(base: &str) -> Option<(&'static str, String)> {
    if let Some(last) = without_initial(base) {
        return Some(("", last));
    }
    let (latin, zhuyin) = INITIALS.iter().find(|(latin, _)| base.starts_with(latin))?;
    let last = &base[latin.len()..];
    let last = match (*latin, last) {
        (_, "") => return None,
        ("zh" | "ch" | "sh" | "r" | "z" | "c" | "s", "i") => String::new(),
        ("j" | "q" | "x", last) if last.starts_with('u') => format!("ü{}", &last[1..]),
        (_, last) => last.into(),
    };
    Some((zhuyin, last))
}

/// The final of a syllable that has no initial: `wo` is `uo`, `yu` is `ü`, `an` is itself.
fn without_initial(base: &str) -> Option<String> {
    Some(match base {
        "yi" | "yin" | "ying" => base[1..].into(),
        "you" => "iu".into(),
        "wu" => "u".into(),
        "wei" => "ui".into(),
        "wen" => "un".into(),
        "weng" => "ueng".into(),
        _ => match base.chars().next()? {
            'y' if base.starts_with("yu") => format!("ü{}", &base[2..]),
            'y' => format!("i{}", &base[1..]),
            'w' => format!("u{}", &base[1..]),
            'a' | 'e' | 'o' => base.into(),
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pinyin_becomes_the_zhuyin_of_the_dictionary() {
        let pairs = [
            ("ni3", "ㄋㄧ"),
            ("hao3", "ㄏㄠ"),
            ("zhong1", "ㄓㄨㄥ"),
            ("shi4", "ㄕ"),
            ("ri4", "ㄖ"),
            ("er2", "ㄦ"),
            ("yue4", "ㄩㄝ"),
            ("yuan2", "ㄩㄢ"),
            ("yong4", "ㄩㄥ"),
            ("wo3", "ㄨㄛ"),
            ("wen4", "ㄨㄣ"),
            ("weng1", "ㄨㄥ"),
            ("you3", "ㄧㄡ"),
            ("liu4", "ㄌㄧㄡ"),
            ("xue2", "ㄒㄩㄝ"),
            ("jun1", "ㄐㄩㄣ"),
            ("qu4", "ㄑㄩ"),
            ("lü4", "ㄌㄩ"),
            ("nüe4", "ㄋㄩㄝ"),
            ("gui4", "ㄍㄨㄟ"),
            ("dun1", "ㄉㄨㄣ"),
            ("xiong2", "ㄒㄩㄥ"),
            ("an1", "ㄢ"),
            ("yi1", "ㄧ"),
            ("ying3", "ㄧㄥ"),
            ("yan2", "ㄧㄢ"),
            ("wu3", "ㄨ"),
            ("zi5", "ㄗ"),
            ("yu3", "ㄩ"),
        ];
        for (pinyin, zhuyin) in pairs {
            assert_eq!(Syllable::parse(pinyin).unwrap().zhuyin().unwrap(), zhuyin, "{pinyin}");
        }
    }

    #[test]
    fn what_is_no_syllable_is_refused() {
        for text in ["", "5", "b3", "xyz1", "ma6", "ma0", "hello", "v4"] {
            assert_eq!(Syllable::parse(text), None, "{text}");
        }
        assert_eq!(Syllable::of('a'), None);
    }

    #[test]
    fn no_digit_is_the_neutral_tone() {
        assert_eq!(Syllable::of('的'), Some(Syllable { base: "de".into(), tone: 5 }));
        assert_eq!(Syllable::of('妈'), Some(Syllable { base: "ma".into(), tone: 1 }));
    }
}
