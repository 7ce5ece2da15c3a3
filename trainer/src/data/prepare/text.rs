//! Bringing transcripts to one form, as the corpora's own recipes do.

use crate::config::choice;

choice! {
    /// Full-width letters, digits and spaces, as Chinese input methods write them.
    pub enum Width {
        /// As they are.
        Keep = "keep",
        /// To their ASCII forms: ＡＴＭ becomes ATM.
        Ascii = "ascii",
    }
}

choice! {
    /// Latin letters.
    pub enum Case {
        /// As they are.
        Keep = "keep",
        /// All to capitals.
        Upper = "upper",
        /// All to small letters.
        Lower = "lower",
    }
}

choice! {
    /// Punctuation, Chinese and Latin.
    pub enum Punctuation {
        /// As it is.
        Keep = "keep",
        /// Left out, but for an apostrophe within a Latin word and a point within a number.
        Strip = "strip",
    }
}

choice! {
    /// Spaces within the text; those around it always go.
    pub enum Spaces {
        /// As they are.
        Keep = "keep",
        /// One for each run of them.
        Single = "single",
        /// None but one between Latin words or numbers: transcripts that are cut into words become sentences again.
        Join = "join",
    }
}

/// What is done to a transcript.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextRules {
    /// Full-width forms.
    pub width: Width,
    /// Latin letters.
    pub case: Case,
    /// Punctuation.
    pub punctuation: Punctuation,
    /// Spaces.
    pub spaces: Spaces,
    /// Characters written in another form than usual.
    pub variants: &'static [(char, char)],
}

impl TextRules {
    /// Nothing but the trimming.
    pub const KEEP: Self = Self {
        width: Width::Keep,
        case: Case::Keep,
        punctuation: Punctuation::Keep,
        spaces: Spaces::Keep,
        variants: &[],
    };

    /// `text` by these rules.
    pub fn apply(&self, text: &str) -> String {
        let text: Vec<char> = text.chars().filter(|c| !matches!(c, '\u{feff}' | '\u{200b}')).collect();
        let mut text: Vec<char> = text.into_iter().flat_map(|c| self.character(c)).collect();
        if self.punctuation == Punctuation::Strip {
            text = strip(&text);
        }
        match self.spaces {
            Spaces::Keep => text.iter().collect::<String>().trim().into(),
            Spaces::Single => join(&text, |_, _| true),
            Spaces::Join => join(&text, |before, after| is_latin(before) && is_latin(after)),
        }
    }

    /// What becomes of one character.
    fn character(&self, c: char) -> impl Iterator<Item = char> {
        let c = self.variants.iter().find(|(from, _)| *from == c).map_or(c, |(_, to)| *to);
        let c = match (self.width, c) {
            (Width::Ascii, '０'..='９' | 'Ａ'..='Ｚ' | 'ａ'..='ｚ' | '＇') => {
                char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c)
            }
            (Width::Ascii, '\u{3000}') => ' ',
            _ => c,
        };
        let (lower, upper) = match self.case {
            Case::Keep => (None, None),
            Case::Lower => (Some(c.to_lowercase()), None),
            Case::Upper => (None, Some(c.to_uppercase())),
        };
        let same = (lower.is_none() && upper.is_none()).then_some(c);
        lower.into_iter().flatten().chain(upper.into_iter().flatten()).chain(same)
    }
}

/// A letter or number of a script that puts spaces between words.
fn is_latin(c: char) -> bool {
    c.is_alphanumeric() && u32::from(c) < 0x250
}

fn is_punctuation(c: char) -> bool {
    matches!(c,
        '!' | '"' | '#' | '\'' | '('..='*' | ','..='/' | ':' | ';' | '?' | '['..='`' | '{'..='~'
        | '\u{b7}' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3020}'
        | '\u{30fb}' | '\u{fe10}'..='\u{fe6b}' | '！'..='＄' | '＆'..='＊' | '，'..='／' | '：'..='；' | '？' | '［'..='｀' | '｛'..='･')
}

/// Without punctuation; a space where it stood between two Latin words.
fn strip(text: &[char]) -> Vec<char> {
    let at = |i: usize| text.get(i).copied().unwrap_or(' ');
    let mut kept = Vec::with_capacity(text.len());
    for (i, &c) in text.iter().enumerate() {
        let before = if i == 0 { ' ' } else { at(i - 1) };
        let after = at(i + 1);
        let within_word = matches!(c, '\'' | '’') && before.is_ascii_alphabetic() && after.is_ascii_alphabetic();
        let within_number = c == '.' && before.is_ascii_digit() && after.is_ascii_digit();
        match is_punctuation(c) {
            true if within_word => kept.push('\''),
            true if !within_number => {
                if is_latin(before) && is_latin(after) {
                    kept.push(' ');
                }
            }
            _ => kept.push(c),
        }
    }
    kept
}

/// With one space or none for each run of them, as `keep` says of the characters before and after.
fn join(text: &[char], keep: impl Fn(char, char) -> bool) -> String {
    let mut joined = String::with_capacity(4 * text.len());
    let mut last: Option<char> = None;
    let mut space = false;
    for &c in text {
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if space && last.is_some_and(|last| keep(last, c)) {
            joined.push(' ');
        }
        joined.push(c);
        (last, space) = (Some(c), false);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANDARIN: TextRules = TextRules {
        width: Width::Ascii,
        case: Case::Upper,
        punctuation: Punctuation::Strip,
        spaces: Spaces::Join,
        variants: &[('𫖯', '頫')],
    };

    #[test]
    fn words_become_a_sentence() {
        assert_eq!(MANDARIN.apply("而 对 楼市 成交 抑制 作用 最 大 的 限 购"), "而对楼市成交抑制作用最大的限购");
        assert_eq!(MANDARIN.apply(" ｔ恤 和 ＡＴＭ 机\u{3000}"), "T恤和ATM机");
        assert_eq!(MANDARIN.apply("打开 hello  world 第 2 集"), "打开HELLO WORLD第2集");
        assert_eq!(MANDARIN.apply("3 4 五"), "3 4五");
    }

    #[test]
    fn punctuation_goes_but_for_words_and_numbers() {
        assert_eq!(MANDARIN.apply("你好，世界？（真的）-"), "你好世界真的");
        assert_eq!(MANDARIN.apply("i'm 3.5 岁'，wi-fi"), "I'M 3.5岁WI FI");
        assert_eq!(MANDARIN.apply("it’s 5%。"), "IT'S 5%");
        assert_eq!(MANDARIN.apply("……——！"), "");
    }

    #[test]
    fn variants_and_marks_are_mended() {
        assert_eq!(MANDARIN.apply("\u{feff}赵孟𫖯\u{200b}"), "赵孟頫");
    }

    #[test]
    fn what_shall_be_kept_is_kept() {
        assert_eq!(TextRules::KEEP.apply(" ＡＢ c， d\t"), "ＡＢ c， d");
        let single = TextRules { spaces: Spaces::Single, ..TextRules::KEEP };
        assert_eq!(single.apply("a \t b  中 文"), "a b 中 文");
        let lower = TextRules { case: Case::Lower, ..TextRules::KEEP };
        assert_eq!(lower.apply("ABC中É"), "abc中é");
    }
}
