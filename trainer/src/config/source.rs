//! Reads what the user wrote: files with their bases, and `--set` arguments, each value with its origin.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{ConfigError, Origin, Shape};
use crate::one_line;

/// A TOML table and where each of its keys (`a.b`, `a.list[0].c`) was written.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) table: Table,
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Layer {
    /// Where `key` was written, or the nearest table above it.
    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        let mut key = key;
        loop {
            if let Some(origin) = self.origins.get(key) {
                return Some(origin);
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    /// Lays `over` on top: tables merge, everything else is replaced.
    fn merge(&mut self, over: Layer) {
        merge_tables(&mut self.table, over.table);
        self.origins.extend(over.origins);
    }
}

fn merge_tables(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge_tables(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// `text`, which came from `path` and stands for itself, then the `--set` arguments in order.
pub(super) fn read_text(path: &Path, text: &str, sets: &[String], shape: &Shape) -> Result<Layer, ConfigError> {
    let mut layer = parse(path, text)?;
    for argument in sets {
        layer.merge(read_set(argument, shape)?);
    }
    Ok(layer)
}

/// The file at `path` over its bases, then the `--set` arguments in order; `shape` is that of the root.
pub(super) fn read(path: &Path, sets: &[String], shape: &Shape) -> Result<Layer, ConfigError> {
    let mut layer = read_chain(path)?;
    for argument in sets {
        layer.merge(read_set(argument, shape)?);
    }
    Ok(layer)
}

/// The file over its base, that over its own base, and so on.
fn read_chain(path: &Path) -> Result<Layer, ConfigError> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut next = Some(path.to_path_buf());
    while let Some(path) = next {
        let mut layer = read_file(&path)?;
        seen.push(fs::canonicalize(&path).unwrap_or_else(|_| path.clone()));
        next = match layer.table.remove("base") {
            None => None,
            Some(Value::String(base)) => {
                let base = path.parent().unwrap_or(Path::new("")).join(base);
                if fs::canonicalize(&base).is_ok_and(|real| seen.contains(&real)) {
                    let problem = format!("`base` leads back to {}, which is already read", base.display());
                    return Err(ConfigError::Base { at: base_origin(&layer, &path), problem });
                }
                Some(base)
            }
            Some(other) => {
                let problem = format!("`base` expects a path, found {}", found(&other));
                return Err(ConfigError::Base { at: base_origin(&layer, &path), problem });
            }
        };
        layers.push(layer);
    }
    let mut merged = Layer::default();
    for layer in layers.into_iter().rev() {
        merged.merge(layer);
    }
    Ok(merged)
}

fn base_origin(layer: &Layer, path: &Path) -> Origin {
    layer.origin("base").cloned().unwrap_or_else(|| Origin::Absent(path.into()))
}

fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let syntax = |error: toml::de::Error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        ConfigError::Syntax { at: Origin::File(path.into(), line), problem: one_line(error.message()) }
    };
    let table: Table = toml::from_str(text).map_err(syntax)?;
    let spans = DeTable::parse(text).map_err(syntax)?;
    let mut origins = BTreeMap::new();
    let mut record = |key: String, at: usize| {
        origins.insert(key, Origin::File(path.into(), line_of(text, at)));
    };
    walk_table(spans.get_ref(), "", &mut record);
    Ok(Layer { table, origins })
}

fn walk_table(table: &DeTable<'_>, prefix: &str, record: &mut impl FnMut(String, usize)) {
    for (key, value) in table {
        let path = join(prefix, key.get_ref());
        record(path.clone(), key.span().start);
        walk_value(value.get_ref(), &path, record);
    }
}

fn walk_value(value: &DeValue<'_>, path: &str, record: &mut impl FnMut(String, usize)) {
    match value {
        DeValue::Table(table) => walk_table(table, path, record),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                record(path.clone(), item.span().start);
                walk_value(item.get_ref(), &path, record);
            }
        }
        _ => {}
    }
}

/// One `section.key=value`: the value is TOML; what is not TOML, or is meant for a string key, is taken as a bare string,
/// unless it begins with a quote.
fn read_set(argument: &str, shape: &Shape) -> Result<Layer, ConfigError> {
    let bad = || ConfigError::BadSet { argument: argument.into() };
    let (key, text) = argument.split_once('=').ok_or_else(bad)?;
    let (key, text) = (key.trim(), text.trim());
    let parts: Vec<&str> = key.split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(bad());
    }
    let parsed = parse_value(text);
    let wants_text = matches!(field_shape(shape, &parts), Some(Shape::Text(_) | Shape::Choice(_)));
    let mut value = match parsed {
        Some(value) if value.is_str() || !wants_text => value,
        None if text.starts_with(['"', '\'']) => return Err(ConfigError::BadQuotes { argument: argument.into() }),
        _ => Value::String(text.into()),
    };
    let mut origins = BTreeMap::new();
    for end in 1..=parts.len() {
        origins.insert(parts[..end].join("."), Origin::Set(argument.into()));
    }
    for part in parts[1..].iter().rev() {
        value = Value::Table(Table::from_iter([((*part).to_string(), value)]));
    }
    let table = Table::from_iter([(parts[0].to_string(), value)]);
    Ok(Layer { table, origins })
}

fn parse_value(text: &str) -> Option<Value> {
    let mut table: Table = toml::from_str(&format!("value = {text}\n")).ok()?;
    // A line break in the argument could smuggle in a second key.
    if table.len() == 1 { table.remove("value") } else { None }
}

fn field_shape<'a>(shape: &'a Shape, parts: &[&str]) -> Option<&'a Shape> {
    let Some((first, rest)) = parts.split_first() else { return Some(shape) };
    match shape {
        Shape::Section(section) => field_shape(&section.fields.iter().find(|field| field.key == *first)?.shape, rest),
        Shape::Map(item) => field_shape(item, rest),
        _ => None,
    }
}

pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.into() } else { format!("{prefix}.{key}") }
}

/// A value in words, for error messages.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the string \"{text}\""),
        Value::Integer(number) => format!("the integer {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(time) => format!("the date {time}"),
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count()
}
