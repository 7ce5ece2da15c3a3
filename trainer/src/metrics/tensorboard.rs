//! TensorBoard event files.
//!
//! Records are framed by `tensorboard-rs` and made of `tensorboard-proto` messages. Its `SummaryWriter` is not used: it writes on a
//! thread that panics when the disk is full, cannot continue a run, and has no text.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process,
};

use protobuf::{Message, RepeatedField};
use tensorboard_proto::{
    event::{Event, SessionLog, SessionLog_SessionStatus},
    summary::{Summary, SummaryMetadata, SummaryMetadata_PluginData},
    tensor::TensorProto,
    tensor_shape::{TensorShapeProto, TensorShapeProto_Dim},
    types::DataType,
};
use tensorboard_rs::{record_writer::RecordWriter, summary};

use super::{
    MetricsError, Record, Tag,
    heatmap::{self, Picture},
    jsonl::LayerHistory,
    record::now,
};

/// A heat map is written at 1, 2, 4, … columns and at every multiple of this.
const PICTURE_EVERY: usize = 64;

/// An event file.
pub struct TensorBoard {
    path: PathBuf,
    writer: RecordWriter<BufWriter<File>>,
    /// Tags whose description has been written.
    described: BTreeSet<String>,
    layers: LayerHistory,
    last_step: u64,
}

impl std::fmt::Debug for TensorBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorBoard").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TensorBoard {
    /// Creates a new event file in `dir`. With `hide_from`, TensorBoard drops what earlier files say about that step and later ones.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(dir: &Path, hide_from: Option<u64>) -> Result<Self, MetricsError> {
        fs::create_dir_all(dir).map_err(|source| MetricsError::Io { path: dir.into(), source })?;
        let path = new_file(dir)?;
        let file = File::create_new(&path).map_err(|source| MetricsError::Io { path: path.clone(), source })?;
        let mut events = Self {
            path,
            writer: RecordWriter::new(BufWriter::new(file)),
            described: BTreeSet::new(),
            layers: LayerHistory::new(),
            last_step: 0,
        };
        let mut version = Event::new();
        version.set_file_version("brain.Event:2".into());
        events.event(version, 0, now())?;
        if let Some(step) = hide_from {
            let mut start = SessionLog::new();
            start.set_status(SessionLog_SessionStatus::START);
            let mut event = Event::new();
            event.set_session_log(start);
            events.event(event, step, now())?;
        }
        events.flush()?;
        Ok(events)
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Continues the pictures of an earlier part of the run.
    pub(super) fn restore_layers(&mut self, layers: LayerHistory) {
        self.layers = layers;
    }

    /// Writes all numbers of a record, and its layer weights as histograms (bucket l is layer l) and heat maps.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<(), MetricsError> {
        self.last_step = record.step;
        for (tag, value) in &record.values {
            let mut scalar = summary::scalar(&tag.to_string(), *value as f32);
            self.describe(&mut scalar, tag);
            self.summary(scalar, record.step, record.wall)?;
        }
        for (tag, weights) in &record.layers {
            let mut histogram = layer_histogram(&tag.to_string(), weights);
            self.describe(&mut histogram, tag);
            self.summary(histogram, record.step, record.wall)?;
            let rows = self.layers.entry(tag.to_string()).or_default();
            rows.push(weights.clone());
            if rows.len().is_power_of_two() || rows.len().is_multiple_of(PICTURE_EVERY) {
                self.picture(&tag.to_string())?;
            }
        }
        Ok(())
    }

    /// Writes Markdown text.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<(), MetricsError> {
        let mut dim = TensorShapeProto_Dim::new();
        dim.set_size(1);
        let mut shape = TensorShapeProto::new();
        shape.set_dim(RepeatedField::from_vec(vec![dim]));
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_tensor_shape(shape);
        tensor.set_string_val(RepeatedField::from_vec(vec![markdown.as_bytes().to_vec()]));
        let mut plugin = SummaryMetadata_PluginData::new();
        plugin.set_plugin_name("text".into());
        let mut metadata = SummaryMetadata::new();
        metadata.set_plugin_data(plugin);
        // The crate makes only numbers, histograms and pictures: take one and replace its value.
        let mut text = summary::scalar(tag, 0.0);
        for value in text.mut_value() {
            value.set_metadata(metadata.clone());
            value.set_tensor(tensor.clone());
        }
        self.summary(text, step, now())
    }

    /// Writes the heat map of every sum as it now stands.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn pictures(&mut self) -> Result<(), MetricsError> {
        let tags: Vec<String> = self.layers.keys().cloned().collect();
        tags.iter().try_for_each(|tag| self.picture(tag))
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn flush(&mut self) -> Result<(), MetricsError> {
        self.writer.flush().map_err(|source| MetricsError::Io { path: self.path.clone(), source })
    }

    fn picture(&mut self, tag: &str) -> Result<(), MetricsError> {
        let Some(Picture { width, height, rgb }) = self.layers.get(tag).and_then(|rows| heatmap::draw(rows)) else {
            return Ok(());
        };
        // The crate takes [3, width, height] for what it calls channel, height, width: set the size right afterwards.
        let mut image = summary::image(&format!("{tag}_map"), &rgb, &[3, width, height]);
        for value in image.mut_value() {
            value.mut_image().set_width(width as i32);
            value.mut_image().set_height(height as i32);
        }
        self.summary(image, self.last_step, now())
    }

    /// Adds unit and meaning where a tag comes first.
    fn describe(&mut self, summary: &mut Summary, tag: &Tag) {
        if self.described.insert(tag.to_string()) {
            for value in summary.mut_value() {
                let mut metadata = SummaryMetadata::new();
                metadata.set_summary_description(format!("{} [{}]", tag.name.doc, tag.name.unit));
                value.set_metadata(metadata);
            }
        }
    }

    fn summary(&mut self, summary: Summary, step: u64, wall: f64) -> Result<(), MetricsError> {
        let mut event = Event::new();
        event.set_summary(summary);
        self.event(event, step, wall)
    }

    fn event(&mut self, mut event: Event, step: u64, wall: f64) -> Result<(), MetricsError> {
        event.set_step(step as i64);
        event.set_wall_time(wall);
        let bytes = event.write_to_bytes().map_err(|error| MetricsError::Encode(error.to_string()))?;
        self.writer.write(&bytes).map_err(|source| MetricsError::Io { path: self.path.clone(), source })
    }
}

/// A histogram whose bucket l holds the weight of layer l.
fn layer_histogram(tag: &str, weights: &[f64]) -> Summary {
    let limits: Vec<f64> = (1..=weights.len()).map(|layer| layer as f64).collect();
    let middle = limits.iter().map(|limit| limit - 0.5);
    let sum: f64 = middle.clone().zip(weights).map(|(x, weight)| x * weight).sum();
    let sum_squares: f64 = middle.zip(weights).map(|(x, weight)| x * x * weight).sum();
    let total: f64 = weights.iter().sum();
    summary::histogram_raw(tag, 0.0, weights.len() as f64, total, sum, sum_squares, &limits, weights)
}

/// A file name that sorts after those of earlier starts: TensorBoard reads the files of a run in the order of their names.
fn new_file(dir: &Path) -> Result<PathBuf, MetricsError> {
    let failed = |source| MetricsError::Io { path: dir.into(), source };
    let mut second = now() as u64;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let earlier = name.to_str().and_then(|name| name.strip_prefix("events.out.tfevents.")?.get(..10)?.parse().ok());
        second = second.max(earlier.map_or(0, |earlier: u64| earlier + 1));
    }
    Ok(dir.join(format!("events.out.tfevents.{second:010}.echat.{}", process::id())))
}
