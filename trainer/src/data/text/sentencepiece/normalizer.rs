//! Normalisation before splitting (`normalizer.cc`): character rules, white space, dummy prefix.

use super::{bpe::Prefixes, proto::NormalizerSpec};

/// What stands for a space in pieces.
pub(super) const SPACE: &str = "\u{2581}";

#[derive(Debug)]
pub(super) struct Normalizer {
    spec: NormalizerSpec,
    rules: Option<Rules>,
    user_defined: Prefixes,
}

impl Normalizer {
    pub(super) fn new(mut spec: NormalizerSpec, user_defined: Prefixes) -> Result<Self, String> {
        let charsmap = std::mem::take(&mut spec.charsmap);
        let rules = if charsmap.is_empty() { None } else { Some(Rules::parse(&charsmap)?) };
        Ok(Self { spec, rules, user_defined })
    }

    /// Whether a space at the start of decoded text was put there by encoding.
    pub(super) fn drops_first_space(&self) -> bool {
        self.spec.add_dummy_prefix || self.spec.remove_extra_whitespaces
    }

    pub(super) fn removes_extra_whitespaces(&self) -> bool {
        self.spec.remove_extra_whitespaces
    }

    pub(super) fn normalize(&self, text: &str) -> String {
        let remove_extra = self.spec.remove_extra_whitespaces;
        let space = if self.spec.escape_whitespaces { SPACE } else { " " };
        let mut rest = text;
        while remove_extra && !rest.is_empty() {
            let (to, length) = self.prefix(rest);
            if to != " " {
                break;
            }
            rest = &rest[length..];
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut normalized = String::with_capacity(text.len() + 8);
        if self.spec.add_dummy_prefix {
            normalized.push_str(space);
        }
        let mut after_space = remove_extra;
        while !rest.is_empty() {
            let (to, length) = self.prefix(rest);
            let to = if after_space { to.trim_start_matches(' ') } else { to };
            if !to.is_empty() {
                after_space = remove_extra && to.ends_with(' ');
                if self.spec.escape_whitespaces {
                    normalized.push_str(&to.replace(' ', SPACE));
                } else {
                    normalized.push_str(to);
                }
            }
            rest = &rest[length..];
        }
        if remove_extra {
            normalized.truncate(normalized.trim_end_matches(space).len());
        }
        normalized
    }

    /// What the start of `text` becomes, and how many bytes of `text` that is. User-defined symbols stay as they are.
    fn prefix<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(length) = self.user_defined.longest(text) {
            return (&text[..length], length);
        }
        if let Some((to, length)) = self.rules.as_ref().and_then(|rules| rules.longest(text)) {
            return (to, length);
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (&text[..length], length)
    }
}

/// `precompiled_charsmap`: a Darts double-array trie from source strings to offsets of NUL-terminated targets.
#[derive(Debug)]
struct Rules {
    trie: Vec<u32>,
    targets: String,
}

impl Rules {
    fn parse(blob: &[u8]) -> Result<Self, String> {
        let broken = || "its precompiled_charsmap is broken".to_string();
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(broken)?;
        let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| broken())?;
        let (trie, targets) = rest.split_at_checked(size).ok_or_else(broken)?;
        let (units, []) = trie.as_chunks::<4>() else { return Err(broken()) };
        let targets = String::from_utf8(targets.to_vec()).map_err(|_| broken())?;
        Ok(Self { trie: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(), targets })
    }

    /// The longest rule whose source starts `text`: its target and the bytes it takes.
    fn longest<'a>(&'a self, text: &str) -> Option<(&'a str, usize)> {
        let mut longest = None;
        let mut position = offset(*self.trie.first()?);
        for (index, byte) in text.bytes().enumerate() {
            position ^= usize::from(byte);
            let Some(&unit) = self.trie.get(position) else { break };
            if label(unit) != u32::from(byte) {
                break;
            }
            position ^= offset(unit);
            if has_leaf(unit) && text.is_char_boundary(index + 1) {
                longest = self.trie.get(position).map(|&leaf| (value(leaf), index + 1));
            }
        }
        let (start, length) = longest?;
        let target = self.targets.get(start..)?;
        Some((target.split('\0').next().unwrap_or_default(), length))
    }
}

// The unit layout of darts-clone.
fn has_leaf(unit: u32) -> bool {
    unit >> 8 & 1 == 1
}

fn value(unit: u32) -> usize {
    (unit & 0x7fff_ffff) as usize
}

fn label(unit: u32) -> u32 {
    unit & 0x8000_00ff
}

fn offset(unit: u32) -> usize {
    (unit as usize >> 10) << ((unit & 1 << 9) >> 6)
}
