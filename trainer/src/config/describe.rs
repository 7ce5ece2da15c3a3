//! What a configuration may hold: the shape that checking and documentation read.

use std::{collections::BTreeMap, path::PathBuf};

use toml::Value;

/// A type that can stand in a configuration.
pub trait Describe {
    /// What values it accepts.
    fn shape() -> Shape;
}

/// What values a key accepts.
#[derive(Debug, Clone)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number from `min` to `max`.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A finite number.
    Float,
    /// A string of the named kind ("string", "path", …).
    Text(&'static str),
    /// One of these strings, each with its meaning.
    Choice(Vec<(&'static str, String)>),
    /// An array of one shape.
    List(Box<Shape>),
    /// A table with free keys and values of one shape.
    Map(Box<Shape>),
    /// A table with known keys.
    Section(Section),
}

/// A table with known keys.
#[derive(Debug, Clone)]
pub struct Section {
    /// What the section is for.
    pub doc: String,
    /// Its keys in the order of the struct.
    pub fields: Vec<Field>,
}

/// One key of a section.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name.
    pub key: &'static str,
    /// What it means.
    pub doc: String,
    /// What it accepts.
    pub shape: Shape,
    /// Its default; `None` if it is required or unset by default.
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
}

impl Shape {
    /// The type in words, with its article, for error messages.
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer { min, max } => match (*min, *max) {
                (i64::MIN, i64::MAX) => "an integer".into(),
                (min, i64::MAX) => format!("an integer of at least {min}"),
                (min, max) => format!("an integer from {min} to {max}"),
            },
            Self::Float => "a finite number".into(),
            Self::Text(name) => format!("a {name}"),
            Self::Choice(choices) => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                format!("one of {}", names.join(", "))
            }
            Self::List(item) => format!("a list, each item {}", item.expected()),
            Self::Map(item) => format!("a table, each value {}", item.expected()),
            Self::Section(_) => "a table".into(),
        }
    }

    /// The type in a word or two, for the documentation.
    pub fn type_name(&self) -> String {
        match self {
            Self::Bool => "bool".into(),
            Self::Integer { .. } => "integer".into(),
            Self::Float => "float".into(),
            Self::Text(name) => (*name).into(),
            Self::Choice(choices) => {
                choices.iter().map(|(name, _)| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ")
            }
            Self::List(item) => format!("list of {}", item.type_name()),
            Self::Map(item) => format!("table of {}", item.type_name()),
            Self::Section(_) => "section".into(),
        }
    }
}

impl Section {
    /// Joins doc-comment lines into one paragraph.
    pub fn paragraph(lines: &[&str]) -> String {
        lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

macro_rules! describe_integers {
    ($($type:ty),*) => {$(
        impl Describe for $type {
            fn shape() -> Shape {
                Shape::Integer {
                    min: i64::try_from(<$type>::MIN).unwrap_or(i64::MIN),
                    max: i64::try_from(<$type>::MAX).unwrap_or(i64::MAX),
                }
            }
        }
    )*};
}
describe_integers!(u8, u16, u32, u64, usize, i32, i64);

// No impl for f32: 0.1f32 would be printed as 0.10000000149011612 in the resolved configuration.
impl Describe for f64 {
    fn shape() -> Shape {
        Shape::Float
    }
}

impl Describe for bool {
    fn shape() -> Shape {
        Shape::Bool
    }
}

impl Describe for String {
    fn shape() -> Shape {
        Shape::Text("string")
    }
}

impl Describe for PathBuf {
    fn shape() -> Shape {
        Shape::Text("path")
    }
}

impl<T: Describe> Describe for Option<T> {
    fn shape() -> Shape {
        T::shape()
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }
}

impl<T: Describe> Describe for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }
}
