//! Text files line by line, whatever wrote them: byte order marks, CRLF and empty lines do no harm.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::SourceError;

/// The lines of a text file that are not empty, with their numbers from 1.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    line: usize,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let file = File::open(path).map_err(SourceError::unreadable(path))?;
        Ok(Self { path: path.into(), reader: BufReader::with_capacity(1 << 20, file), line: 0 })
    }
}

impl Iterator for Lines {
    type Item = Result<(usize, String), SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut bytes = Vec::new();
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(e) => return Some(Err(SourceError::unreadable(&self.path)(e))),
            }
            let line = self.line;
            let Ok(text) = str::from_utf8(&bytes) else {
                let reason = "not UTF-8; convert the file, as with iconv".into();
                return Some(Err(SourceError::Malformed { path: self.path.clone(), line, reason }));
            };
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() {
                return Some(Ok((line, text.into())));
            }
        }
    }
}

/// A value by key, and the line it stands on.
pub(super) type Table = HashMap<String, (usize, String)>;

/// A file of lines `KEY VALUE`, separated by spaces or tabs. Keys that come again are kept as they came first and listed.
pub(super) fn table(path: &Path) -> Result<(Table, Vec<(usize, String)>), SourceError> {
    let (mut table, mut again) = (Table::new(), Vec::new());
    for entry in Lines::open(path)? {
        let (line, text) = entry?;
        let (key, value) = split(&text);
        match table.entry(key.into()) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert((line, value.into()));
            }
            std::collections::hash_map::Entry::Occupied(_) => again.push((line, key.into())),
        }
    }
    Ok((table, again))
}

/// The same for a file that may be absent.
pub(super) fn optional(path: &Path) -> Result<Table, SourceError> {
    if path.exists() { Ok(table(path)?.0) } else { Ok(Table::new()) }
}

/// A line's first word and the rest.
pub(super) fn split(line: &str) -> (&str, &str) {
    let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    (key, value.trim())
}
