//! Emotion-labelled texts: TSV with a header line, or JSONL; UTF-8, with or without BOM and carriage returns.

use super::config::{ColumnsConfig, TextsConfig};
use super::error::{SynthError, TextProblem};
use crate::data::emotion::Emotion;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

/// One question, to be answered and spoken.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Item {
    /// Unique, and fit for a file name.
    pub id: String,
    /// What is said.
    pub text: String,
    /// What is spoken, if that is written differently.
    pub spoken: Option<String>,
    /// How it is said.
    #[serde(serialize_with = "name")]
    pub emotion: Emotion,
    /// What is answered, if the texts say.
    pub response: Option<String>,
    /// By whom, if the texts say.
    pub voice: Option<String>,
    /// Index into the parts, if the texts say.
    pub part: Option<usize>,
    /// File and line.
    #[serde(skip)]
    pub source: String,
}

fn name<S: serde::Serializer>(emotion: &Emotion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(emotion.name())
}

/// Reads all texts in the order of the configuration (parts by name).
pub fn read(config: &TextsConfig) -> Result<Vec<Item>, SynthError> {
    let pool = config.files.iter().map(|file| (None, file));
    let parts = config.parts.values().enumerate();
    let parts = parts.flat_map(|(part, files)| files.iter().map(move |file| (Some(part), file)));
    let mut items: Vec<Item> = Vec::new();
    for (part, file) in pool.chain(parts) {
        let path = config.folder.join(file);
        let bytes = std::fs::read(&path).map_err(SynthError::io("read", &path))?;
        let found = parse(config, &path, &bytes)?;
        items.extend(found.into_iter().map(|item| Item { part, ..item }));
    }
    let mut seen: HashMap<&str, &str> = HashMap::with_capacity(items.len());
    for item in &items {
        if let Some(first) = seen.insert(&item.id, &item.source) {
            let problem = TextProblem::Duplicate { id: item.id.clone(), first: first.into() };
            return Err(SynthError::Text { at: item.source.clone(), problem });
        }
    }
    Ok(items)
}

/// The values of one line, by column or key.
type Fields = HashMap<String, String>;

fn parse(config: &TextsConfig, path: &Path, bytes: &[u8]) -> Result<Vec<Item>, SynthError> {
    let whole = |problem| SynthError::Text { at: path.display().to_string(), problem };
    let text = str::from_utf8(bytes).map_err(|_| whole(TextProblem::Encoding))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end_matches('\r')));
    let mut lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let header: Option<Vec<String>> = match path.extension().and_then(|e| e.to_str()) {
        Some("tsv") => {
            let header = lines.next().ok_or_else(|| whole(TextProblem::Nothing))?.1;
            Some(columns(&config.columns, header).map_err(whole)?)
        }
        Some("jsonl") => None,
        _ => return Err(whole(TextProblem::Kind)),
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut items = Vec::new();
    for (number, line) in lines {
        let at = format!("{}:{number}", path.display());
        let fields = match &header {
            Some(header) => tsv(header, line),
            None => json(line),
        };
        let item = fields.and_then(|fields| item(config, fields, format!("{stem}-{number}")));
        let item = item.map_err(|problem| SynthError::Text { at: at.clone(), problem })?;
        items.push(Item { source: at, ..item });
    }
    match items.is_empty() {
        true => Err(whole(TextProblem::Nothing)),
        false => Ok(items),
    }
}

fn columns(config: &ColumnsConfig, header: &str) -> Result<Vec<String>, TextProblem> {
    let columns: Vec<String> = header.split('\t').map(|name| name.trim().to_string()).collect();
    match [&config.text, &config.emotion].into_iter().find(|column| !columns.contains(column)) {
        Some(column) => Err(TextProblem::Column { column: column.clone(), found: columns.join(", ") }),
        None => Ok(columns),
    }
}

fn tsv(header: &[String], line: &str) -> Result<Fields, TextProblem> {
    let fields: Vec<&str> = line.split('\t').collect();
    match fields.len() == header.len() {
        true => Ok(header.iter().cloned().zip(fields.into_iter().map(String::from)).collect()),
        false => Err(TextProblem::Fields { found: fields.len(), wanted: header.len() }),
    }
}

fn json(line: &str) -> Result<Fields, TextProblem> {
    let object: Map<String, Value> = serde_json::from_str(line).map_err(|e| TextProblem::Json(e.to_string()))?;
    let text = |value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Ok(object.into_iter().filter_map(|(key, value)| Some((key, text(value)?))).collect())
}

fn item(config: &TextsConfig, mut fields: Fields, default_id: String) -> Result<Item, TextProblem> {
    let names = &config.columns;
    let mut take = |name: &String| fields.remove(name).map(|text| text.trim().to_string());
    let required = |name: &String, value: Option<String>| value.ok_or_else(|| TextProblem::Key(name.clone()));
    let text = sayable(&required(&names.text, take(&names.text))?)?;
    let label = required(&names.emotion, take(&names.emotion))?;
    let emotion = config.emotions.get(&label).unwrap_or(&label).parse()?;
    let mut given = |name| take(name).filter(|text| !text.is_empty());
    let spoken = given(&names.spoken).map(|text| sayable(&text)).transpose()?;
    let id = given(&names.id).unwrap_or(default_id);
    if id.len() > 200 || id.starts_with('.') || id.contains(|c: char| c == '/' || c.is_control()) {
        return Err(TextProblem::Id(id));
    }
    let (response, voice) = (given(&names.response), given(&names.voice));
    Ok(Item { id, text, spoken, emotion, response, voice, part: None, source: String::new() })
}

/// White space of any kind becomes single spaces; other control characters no SSML may hold.
fn sayable(text: &str) -> Result<String, TextProblem> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.chars().find(|c| c.is_control()) {
        Some(control) => Err(TextProblem::Control(control)),
        None if text.is_empty() => Err(TextProblem::Empty),
        None => Ok(text),
    }
}
