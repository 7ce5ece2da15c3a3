//! From a file and `--set` arguments to a typed configuration.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use toml::Value;

use super::{
    ConfigError, Describe, Origin, Shape,
    check::Check,
    source::{self, Layer},
};
use crate::one_line;

/// A configuration and where its values came from.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration, defaults filled in.
    pub config: T,
    path: PathBuf,
    layer: Layer,
}

/// Reads `path`, its bases and the `--set` arguments (`section.key=value`) into `T`.
///
/// # Errors
/// Anything unreadable, unknown, missing or of the wrong type, named with file and line or with the argument.
pub fn load<T: DeserializeOwned + Serialize + Describe>(
    path: &Path,
    sets: &[String],
) -> Result<Loaded<T>, ConfigError> {
    let shape = T::shape();
    let layer = source::read(path, sets, &shape)?;
    check(path, layer, &shape)
}

/// As [`load`], from the text of a resolved configuration kept in `path` (a checkpoint's).
///
/// # Errors
/// As [`load`].
pub fn load_text<T: DeserializeOwned + Serialize + Describe>(
    path: &Path,
    text: &str,
    sets: &[String],
) -> Result<Loaded<T>, ConfigError> {
    let shape = T::shape();
    let layer = source::read_text(path, text, sets, &shape)?;
    check(path, layer, &shape)
}

fn check<T: DeserializeOwned>(path: &Path, layer: Layer, shape: &Shape) -> Result<Loaded<T>, ConfigError> {
    Check { path, layer: &layer, root: shape }.run()?;
    match T::deserialize(Value::Table(layer.table.clone())) {
        Ok(config) => Ok(Loaded { config, path: path.into(), layer }),
        Err(error) => {
            // toml names the key on a last line: in `a.b`.
            let text = error.to_string();
            let key = text.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`')).unwrap_or_default();
            let at = layer.origin(key).cloned().unwrap_or_else(|| Origin::Absent(path.into()));
            Err(ConfigError::Invalid { at, key: key.into(), problem: one_line(error.message()) })
        }
    }
}

impl<T: Serialize> Loaded<T> {
    /// The whole configuration with defaults and overrides, as TOML that loads to the same value.
    ///
    /// # Errors
    /// A value TOML cannot hold, such as an integer above `i64::MAX`.
    pub fn resolved_toml(&self) -> Result<String, ConfigError> {
        toml::to_string_pretty(&self.config).map_err(|error| ConfigError::Write(one_line(&error.to_string())))
    }
}

impl<T> Loaded<T> {
    /// The error for a value of the right type that makes no sense, with the place where `key` was written.
    pub fn invalid(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let at = self.layer.origin(key).cloned().unwrap_or_else(|| Origin::Absent(self.path.clone()));
        ConfigError::Invalid { at, key: key.into(), problem: problem.into() }
    }
}
