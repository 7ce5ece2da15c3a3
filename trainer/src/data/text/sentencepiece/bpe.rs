//! Joins characters into pieces (`bpe_model.cc`): always the pair whose joined piece scores highest, the leftmost of equals.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap, HashSet},
};

/// User-defined symbols: they are never split and never joined.
#[derive(Debug, Clone)]
pub(super) struct Prefixes {
    symbols: HashSet<String>,
    first_bytes: HashSet<u8>,
    longest: usize,
}

impl Prefixes {
    pub(super) fn new(symbols: HashSet<String>) -> Self {
        let first_bytes = symbols.iter().filter_map(|symbol| symbol.bytes().next()).collect();
        let longest = symbols.iter().map(String::len).max().unwrap_or(0);
        Self { symbols, first_bytes, longest }
    }

    /// The length of the longest symbol that starts `text`.
    pub(super) fn longest(&self, text: &str) -> Option<usize> {
        if !self.first_bytes.contains(text.as_bytes().first()?) {
            return None;
        }
        let most = self.longest.min(text.len());
        (1..=most).rev().find(|&length| text.get(..length).is_some_and(|start| self.symbols.contains(start)))
    }
}

/// A piece that joining may reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) score: f32,
    /// Helps to join but is not put out.
    pub(super) unused: bool,
}

#[derive(Debug)]
pub(super) struct Bpe {
    pub(super) entries: HashMap<String, Entry>,
    pub(super) user_defined: Prefixes,
}

impl Bpe {
    /// The pieces of normalised `text`, in order; single characters may be unknown.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut joining =
            Joining { bpe: self, text, symbols: self.symbols(text), agenda: BinaryHeap::new(), unused: HashMap::new() };
        for left in 0..joining.symbols.len() {
            joining.consider(left);
        }
        while let Some(pair) = joining.agenda.pop() {
            joining.join(&pair);
        }
        joining.pieces()
    }

    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(first) = text[start..].chars().next() {
            let frozen = self.user_defined.longest(&text[start..]);
            let end = start + frozen.unwrap_or(first.len_utf8());
            let index = symbols.len();
            symbols.push(Symbol {
                start,
                end,
                previous: index.checked_sub(1),
                next: (end < text.len()).then_some(index + 1),
                frozen: frozen.is_some(),
            });
            start = end;
        }
        symbols
    }
}

/// A run of characters, linked to its neighbours; empty once joined to its left neighbour.
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

impl Symbol {
    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Two neighbours that would join into a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when found: a pair that changed since has another size.
    size: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

/// One text on its way from characters to pieces.
struct Joining<'a, 'b> {
    bpe: &'b Bpe,
    text: &'a str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Pair>,
    /// Unused pieces met, with the bytes of their left part.
    unused: HashMap<&'a str, usize>,
}

impl<'a> Joining<'a, '_> {
    /// Puts symbol `left` and its right neighbour on the agenda if they make a piece.
    fn consider(&mut self, left: usize) {
        let first = &self.symbols[left];
        let Some(right) = first.next else { return };
        let second = &self.symbols[right];
        if first.frozen || second.frozen {
            return;
        }
        let joined = &self.text[first.start..second.end];
        let Some(entry) = self.bpe.entries.get(joined) else { return };
        self.agenda.push(Pair { score: entry.score, left, right, size: joined.len() });
        if entry.unused {
            self.unused.insert(joined, first.len());
        }
    }

    fn join(&mut self, &Pair { left, right, size, .. }: &Pair) {
        let (first, second) = (self.symbols[left].len(), self.symbols[right].len());
        if first == 0 || second == 0 || first + second != size {
            return;
        }
        let next = self.symbols[right].next;
        self.symbols[left].end = self.symbols[right].end;
        self.symbols[left].next = next;
        self.symbols[right].end = self.symbols[right].start;
        if let Some(next) = next {
            self.symbols[next].previous = Some(left);
        }
        if let Some(previous) = self.symbols[left].previous {
            self.consider(previous);
        }
        self.consider(left);
    }

    /// What remains, unused pieces taken apart again into the two parts they were made from.
    fn pieces(self) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut pending = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.len() > 0) {
            pending.push(&self.text[symbol.start..symbol.end]);
            while let Some(piece) = pending.pop() {
                match self.unused.get(piece) {
                    Some(&left) => pending.extend([&piece[left..], &piece[..left]]),
                    None => pieces.push(piece),
                }
            }
        }
        pieces
    }
}
