//! Checks what the user wrote against what the sections declare, so that every mistake is named with its place.

use std::path::Path;

use toml::{Table, Value};

use super::{
    ConfigError, Origin, Section, Shape,
    source::{Layer, found, join},
};

/// A suggestion must be at least this alike (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

pub(super) struct Check<'a> {
    pub(super) path: &'a Path,
    pub(super) layer: &'a Layer,
    pub(super) root: &'a Shape,
}

impl Check<'_> {
    /// The first mistake, if there is one.
    pub(super) fn run(&self) -> Result<(), ConfigError> {
        match self.root {
            Shape::Section(section) => self.section(section, &self.layer.table, ""),
            _ => Ok(()),
        }
    }

    fn section(&self, section: &Section, table: &Table, prefix: &str) -> Result<(), ConfigError> {
        for (key, value) in table {
            let path = join(prefix, key);
            match section.fields.iter().find(|field| field.key == key) {
                Some(field) => self.value(&field.shape, value, &path)?,
                None => {
                    let hint = self.hint(section, prefix, key);
                    return Err(ConfigError::UnknownKey { at: self.at(&path), key: path, hint });
                }
            }
        }
        let Some(field) = section.fields.iter().find(|field| field.required && !table.contains_key(field.key)) else {
            return Ok(());
        };
        let key = join(prefix, field.key);
        if let Shape::Section(inner) = &field.shape {
            // Names the key inside that is missing, if there is one.
            self.section(inner, &Table::new(), &key)?;
        }
        Err(ConfigError::Missing { at: Origin::Absent(self.path.into()), key, doc: field.doc.clone() })
    }

    fn value(&self, shape: &Shape, value: &Value, path: &str) -> Result<(), ConfigError> {
        let fits = match (shape, value) {
            (Shape::Bool, Value::Boolean(_)) | (Shape::Text(_), Value::String(_)) => true,
            (Shape::Integer { min, max }, Value::Integer(number)) => (min..=max).contains(&number),
            (Shape::Float, Value::Integer(_)) => true,
            (Shape::Float, Value::Float(number)) => number.is_finite(),
            (Shape::Choice(choices), Value::String(text)) => choices.iter().any(|(name, _)| name == text),
            (Shape::List(item), Value::Array(values)) => {
                for (index, value) in values.iter().enumerate() {
                    self.value(item, value, &format!("{path}[{index}]"))?;
                }
                true
            }
            (Shape::Map(item), Value::Table(table)) => {
                for (key, value) in table {
                    self.value(item, value, &join(path, key))?;
                }
                true
            }
            (Shape::Section(section), Value::Table(table)) => return self.section(section, table, path),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(ConfigError::WrongType {
            at: self.at(path),
            key: path.into(),
            expected: shape.expected(),
            found: found(value),
        })
    }

    fn at(&self, path: &str) -> Origin {
        self.layer.origin(path).cloned().unwrap_or_else(|| Origin::Absent(self.path.into()))
    }

    /// The nearest key of the section, or the same key in another section, or all keys of the section.
    fn hint(&self, section: &Section, prefix: &str, key: &str) -> String {
        let mut elsewhere = Vec::new();
        keys_named(self.root, key, "", &mut elsewhere);
        let nearest = section
            .fields
            .iter()
            .map(|field| (strsim::jaro_winkler(field.key, key), field.key))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(alike, _)| *alike >= ALIKE)
            .map(|(_, key)| join(prefix, key));
        match elsewhere.into_iter().next().or(nearest) {
            Some(key) => format!("did you mean `{key}`?"),
            None => {
                let keys: Vec<_> =
                    section.fields.iter().map(|field| format!("`{}`", join(prefix, field.key))).collect();
                format!("valid here: {}", keys.join(", "))
            }
        }
    }
}

/// Full paths of every key called `key`, outside lists and free tables.
fn keys_named(shape: &Shape, key: &str, prefix: &str, paths: &mut Vec<String>) {
    let Shape::Section(section) = shape else { return };
    for field in &section.fields {
        let path = join(prefix, field.key);
        if field.key == key {
            paths.push(path.clone());
        }
        keys_named(&field.shape, key, &path, paths);
    }
}
