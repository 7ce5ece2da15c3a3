//! The documentation of every key, from the structs.

use std::fmt::Write as _;

use super::{Describe, Field, Section, Shape, source::join};

const PRECEDENCE: &str = "Precedence: defaults < `base` files < the file < `--set section.key=value`. `base = \"other.toml\"` at the top of a \
file names one whose keys this file overrides, relative to the file itself. All other relative paths are relative to the \
current directory.\n\n";

/// Every section and key of `T` as Markdown: type, default, meaning.
pub fn describe_markdown<T: Describe>() -> String {
    let mut text = "# Configuration\n\n".to_string();
    if let Shape::Section(root) = T::shape() {
        section(&mut text, &root, "");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn section(text: &mut String, section_shape: &Section, prefix: &str) {
    // Writing to a String cannot fail.
    if !prefix.is_empty() {
        let _ = writeln!(text, "## `[{prefix}]`\n");
    }
    if !section_shape.doc.is_empty() {
        let _ = writeln!(text, "{}\n", section_shape.doc);
    }
    if prefix.is_empty() {
        text.push_str(PRECEDENCE);
    }
    let keys: Vec<_> = section_shape.fields.iter().filter(|field| subsection(&field.shape).is_none()).collect();
    if !keys.is_empty() {
        text.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
        for field in keys {
            row(text, field);
        }
        text.push('\n');
    }
    for field in &section_shape.fields {
        if let Some((inner, suffix)) = subsection(&field.shape) {
            section(text, inner, &format!("{}{suffix}", join(prefix, field.key)));
        }
    }
}

fn row(text: &mut String, field: &Field) {
    let default = match (&field.default, field.required) {
        (_, true) => "**required**".into(),
        (None, false) => "unset".into(),
        (Some(value), false) => format!("`{value}`"),
    };
    let mut doc = field.doc.clone();
    if let Shape::Choice(choices) = &field.shape {
        for (name, meaning) in choices.iter().filter(|(_, meaning)| !meaning.is_empty()) {
            let _ = write!(doc, " `\"{name}\"`: {meaning}");
        }
    }
    let cells = [field.shape.type_name(), default, doc].map(|cell| cell.replace('|', "\\|"));
    let _ = writeln!(text, "| `{}` | {} |", field.key, cells.join(" | "));
}

/// The section below a key, if it is one or a list or table of them, and how its heading marks that.
fn subsection(shape: &Shape) -> Option<(&Section, &'static str)> {
    match shape {
        Shape::Section(section) => Some((section, "")),
        Shape::List(item) => subsection(item).map(|(section, _)| (section, "[]")),
        Shape::Map(item) => subsection(item).map(|(section, _)| (section, ".NAME")),
        _ => None,
    }
}
