//! What is known about one interval of training.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Number, Value};

use super::{Name, Tag};

/// The metrics of one step or interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The global step, counted from 1.
    pub step: u64,
    /// Seconds since 1970.
    pub wall: f64,
    /// Numbers by tag, in the order added.
    pub values: Vec<(Tag, f64)>,
    /// Weights of the encoder layers by tag; each is `[layers]`.
    pub layers: Vec<(Tag, Vec<f64>)>,
}

impl Record {
    /// An empty record of now.
    pub fn new(step: u64) -> Self {
        Self { step, wall: now(), values: Vec::new(), layers: Vec::new() }
    }

    /// Adds a number.
    pub fn push(&mut self, tag: impl Into<Tag>, value: f64) {
        self.values.push((tag.into(), value));
    }

    /// The number of a metric without members.
    pub fn get(&self, name: &'static Name) -> Option<f64> {
        self.values.iter().find(|(tag, _)| tag.name == name && tag.member.is_none()).map(|(_, value)| *value)
    }

    /// The members of a metric and their numbers.
    pub fn members(&self, name: &'static Name) -> impl Iterator<Item = (&str, f64)> {
        self.values
            .iter()
            .filter(move |(tag, _)| tag.name == name)
            .filter_map(|(tag, value)| Some((tag.member.as_deref()?, *value)))
    }

    /// One JSON object; numbers that are not finite become the strings `"NaN"`, `"inf"`, `"-inf"`.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("step".into(), self.step.into());
        object.insert("wall".into(), number(self.wall));
        for (tag, value) in &self.values {
            object.insert(tag.to_string(), number(*value));
        }
        for (tag, weights) in &self.layers {
            object.insert(tag.to_string(), weights.iter().map(|&weight| number(weight)).collect());
        }
        Value::Object(object)
    }
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
