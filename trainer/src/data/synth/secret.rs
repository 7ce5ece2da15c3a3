//! API keys: read from where the configuration says, and never shown.

use super::error::SynthError;
use std::fmt;
use std::path::Path;

/// An API key. Neither `Debug` nor `Display` shows it.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

impl Secret {
    /// Checks that `key`, which came from `place`, can stand in an HTTP header.
    pub fn new(key: &str, place: &str) -> Result<Self, SynthError> {
        let key = key.trim();
        match !key.is_empty() && key.chars().all(|c| c.is_ascii_graphic()) {
            true => Ok(Self(key.into())),
            false => Err(SynthError::BadKey { place: place.into() }),
        }
    }

    /// The key for `url`, from `file` or else the environment variable `variable`; none if that is "".
    pub fn find(
        url: &str,
        section: &'static str,
        variable: &str,
        file: Option<&Path>,
    ) -> Result<Option<Self>, SynthError> {
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(SynthError::io("read the key file", path))?;
            return Self::new(&text, &path.display().to_string()).map(Some);
        }
        if variable.is_empty() {
            return Ok(None);
        }
        let missing = || SynthError::NoKey { url: url.into(), variable: variable.into(), section };
        let value = echat_launch::env::named(variable).ok_or_else(missing)?;
        Self::new(&value, &format!("the environment variable {variable}")).map(Some)
    }

    /// The value of a header: `prefix` and the key.
    pub(super) fn header(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.0)
    }

    /// `text` without the key.
    pub fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = Secret::new(" sk-abc123\n", "here").unwrap();
        assert_eq!(format!("{key} {key:?} {:?}", Some(&key)), "[key] [key] Some([key])");
        assert_eq!(key.scrub("Incorrect key sk-abc123 (sk-abc123)"), "Incorrect key [key] ([key])");
        assert_eq!(key.header("Bearer "), "Bearer sk-abc123");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_without_showing_it() {
        for bad in ["", " \n", "two words", "zwei\nzeilen", "schlüssel"] {
            let error = Secret::new(bad, "the file k").unwrap_err().to_string();
            assert!(error.starts_with("the key in the file k is empty or holds") && !error.contains("zwei"), "{error}");
        }
    }
}
