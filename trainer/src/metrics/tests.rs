#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::{MetricsError, MetricsFiles, Record, TensorBoard, heatmap, line, names};

fn record(step: u64, loss: f64) -> Record {
    let mut record = Record { step, wall: 1.7e9 + step as f64 / 8.0, values: Vec::new(), layers: Vec::new() };
    record.push(&names::LOSS, loss);
    record.push(names::LEARNING_RATE.of("connector"), 1e-4);
    record.layers.push(((&names::SPEECH_LAYERS).into(), vec![0.5, 0.25, 0.25]));
    record
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn tags_are_distinct_and_have_units() {
    let tags: BTreeSet<_> = names::ALL.iter().map(|name| name.tag).collect();
    assert_eq!(tags.len(), names::ALL.len());
    assert!(names::ALL.iter().all(|name| !name.unit.is_empty() && !name.doc.is_empty() && name.tag.contains('/')));
}

#[test]
fn json_lines_keep_every_bit() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = MetricsFiles::open(dir.path(), None).unwrap();
    let losses = [0.1 + 0.2, f64::MIN_POSITIVE, 1.0 / 3.0, 123_456_789.123_456_79];
    for (step, &loss) in (1..).zip(&losses) {
        files.write(&record(step, loss)).unwrap();
    }
    let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let read: Vec<f64> = text
        .lines()
        .map(|line| line.split("\"train/loss\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(bits(&read), bits(&losses));
    assert_eq!(lines(dir.path())[0]["optim/lr/connector"], json!(1e-4));
    assert_eq!(lines(dir.path())[0]["layers/speech"], json!([0.5, 0.25, 0.25]));
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn numbers_that_are_not_finite_are_words() {
    let words: Vec<Value> =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|loss| record(1, loss).to_json()["train/loss"].clone()).into();
    assert_eq!(words, [json!("NaN"), json!("inf"), json!("-inf")]);
}

#[test]
fn resuming_cuts_later_lines_and_a_half_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = MetricsFiles::open(dir.path(), None).unwrap();
    (1..=5).for_each(|step| files.write(&record(step, step as f64)).unwrap());
    drop(files);
    let path = dir.path().join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap() + "{\"step\": 6, \"trai";
    fs::write(&path, &text).unwrap();
    let mut files = MetricsFiles::open(dir.path(), Some(3)).unwrap();
    files.write(&record(4, 40.0)).unwrap();
    let losses: Vec<_> = lines(dir.path()).iter().map(|line| line["train/loss"].as_f64().unwrap()).collect();
    assert_eq!(losses, [1.0, 2.0, 3.0, 40.0]);
    fs::write(&path, &text).unwrap();
    MetricsFiles::open(dir.path(), Some(9)).unwrap();
    assert_eq!(lines(dir.path()).len(), 5, "only the half line goes");
}

#[test]
fn a_new_run_begins_empty() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1}\n").unwrap();
    MetricsFiles::open(dir.path(), None).unwrap();
    assert!(lines(dir.path()).is_empty());
}

#[test]
fn broken_line_in_metrics() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1}\n{\"stop\":2}\n{\"step\":3}\n").unwrap();
    let error = MetricsFiles::open(dir.path(), Some(3)).unwrap_err();
    assert!(matches!(&error, MetricsError::Malformed { line: 2, .. }), "{error}");
    assert!(error.to_string().ends_with("metrics.jsonl:2: not a metrics record: no `step`"), "{error}");
}

#[test]
fn directory_that_cannot_be_written() {
    let error = MetricsFiles::open(Path::new("/proc/no-such-run"), None).unwrap_err();
    assert!(error.to_string().starts_with("/proc/no-such-run/metrics.jsonl: "), "{error}");
}

#[test]
fn progress_line() {
    let mut stage_2 = record(120, 1.25);
    stage_2.push(&names::LOSS_DECODER, 1.5);
    stage_2.push(&names::LOSS_EMOTION, 1.0);
    stage_2.push(&names::EMOTION_ACCURACY, 0.875);
    stage_2.push(names::LEARNING_RATE.of("emotion"), 1e-4);
    stage_2.push(&names::GRAD_NORM, 0.5);
    stage_2.push(&names::AUDIO_HOURS_PER_HOUR, 321.04);
    stage_2.push(&names::STEP_SECONDS, 0.5);
    assert_eq!(
        line(&stage_2, 2000),
        "step 120/2000 | loss 1.2500 (decoder 1.5000, emotion 1.0000) | emotion accuracy 87.5 % | lr 1.00e-4 | \
         grad norm 0.500 | 321.0 audio-h/h | 0.500 s/step | ETA 15m40s"
    );
    assert_eq!(line(&record(2, 0.5), 9), "step 2/9 | loss 0.5000 | lr 1.00e-4");
    let mut valid = Record::new(9);
    valid.push(&names::VALID_LOSS, 2.0);
    valid.push(&names::STEP_SECONDS, 4000.0);
    assert_eq!(line(&valid, 10), "step 9/10 | valid loss 2.0000 | 4000.000 s/step | ETA 1h06m");
}

#[test]
fn heat_map_puts_the_first_layer_at_the_bottom() {
    let picture = heatmap::draw(&[vec![0.0, 1.0], vec![1.0, 0.0]]).unwrap();
    assert_eq!((picture.width, picture.height, picture.rgb.len()), (6, 16, 6 * 16 * 3));
    let pixel = |x: usize, y: usize| &picture.rgb[(y * 6 + x) * 3..][..3];
    let (dark, bright) = ([68, 1, 84], [253, 231, 37]);
    assert_eq!((pixel(0, 0), pixel(5, 0)), (&bright[..], &dark[..]));
    assert_eq!((pixel(0, 15), pixel(5, 15)), (&dark[..], &bright[..]));
    assert!(heatmap::draw(&[]).is_none());
    assert_eq!(heatmap::draw(&vec![vec![1.0]; 1001]).unwrap().width, 3 * 334);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

#[test]
fn event_files_are_framed_and_checksummed() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = TensorBoard::create(dir.path(), Some(4)).unwrap();
    events.write(&record(4, 1.0)).unwrap();
    events.flush().unwrap();
    let bytes = fs::read(events.path()).unwrap();
    let masked = |bytes: &[u8]| crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8).to_le_bytes();
    let (mut rest, mut count) = (bytes.as_slice(), 0);
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(rest[8..12], masked(&rest[..8]));
        assert_eq!(rest[12 + length..16 + length], masked(&rest[12..12 + length]));
        rest = &rest[16 + length..];
        count += 1;
    }
    assert_eq!(count, 6, "version, session start, two numbers, a histogram, a picture");
}

#[test]
fn event_files_of_later_starts_sort_later() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..3).map(|_| TensorBoard::create(dir.path(), None).unwrap().path().to_owned()).collect();
    assert!(paths.is_sorted() && paths[0] != paths[1] && paths[1] != paths[2], "{paths:?}");
}

const READ: &str = r#"
import json, struct, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0, "histograms": 0, "images": 0}).Reload()
tags = events.Tags()
histogram = events.Histograms("layers/speech")[-1]
images = events.Images("layers/speech_map")
metadata = events.SummaryMetadata("text/samples")
print(json.dumps({
    "scalars": sorted(tags["scalars"]),
    "loss": [[e.step, e.value, e.wall_time] for e in events.Scalars("train/loss")],
    "description": events.SummaryMetadata("train/loss").summary_description,
    "histogram": [histogram.step, histogram.histogram_value.min, histogram.histogram_value.max,
                  histogram.histogram_value.bucket_limit, histogram.histogram_value.bucket],
    "images": [[i.step, i.width, i.height, *struct.unpack(">II", i.encoded_image_string[16:24])] for i in images],
    "text": [metadata.plugin_data.plugin_name, events.Tensors("text/samples")[0].tensor_proto.string_val[0].decode()],
}))
"#;

#[test]
fn tensorboard_reads_a_resumed_run() {
    let python = std::env::var("ECHAT_PYTHON").unwrap_or_else(|_| "python3".into());
    if !Command::new(&python).args(["-c", "import tensorboard"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("not run: {python} has no tensorboard package (set ECHAT_PYTHON)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut files = MetricsFiles::open(dir.path(), None).unwrap();
    (1..=5).for_each(|step| files.write(&record(step, step as f64)).unwrap());
    let torn = files.tensorboard.path().to_owned();
    drop(files);
    // As if killed in the middle of a record.
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 5]).unwrap();
    let mut files = MetricsFiles::open(dir.path(), Some(3)).unwrap();
    (4..=6).for_each(|step| files.write(&record(step, 10.0 * step as f64)).unwrap());
    files.text(6, "text/samples", "| said | heard |\n|---|---|\n| 你好 | 你好 |").unwrap();
    files.finish().unwrap();

    let output = Command::new(&python).args(["-c", READ]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wall = |step: f64| 1.7e9 + step / 8.0;
    let loss: Vec<_> = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
        .map(|(step, loss)| json!([step, loss, wall(f64::from(step))]))
        .into();
    assert_eq!(read["loss"], json!(loss));
    assert_eq!(read["scalars"], json!(["optim/lr/connector", "train/loss"]));
    assert_eq!(read["description"], json!("(1-α)·decoder loss + α·emotion loss, over the global batch [nats]"));
    assert_eq!(read["histogram"], json!([6, 0.0, 3.0, [1.0, 2.0, 3.0], [0.5, 0.25, 0.25]]));
    // Width and height as said and as in the PNG header: columns 1, 2, then 4 of which 3 come from before the resumption, and all 6 at the end.
    let images: Vec<_> =
        [(1, 3), (2, 6), (4, 12), (6, 18)].map(|(step, width)| json!([step, width, 24, width, 24])).into();
    assert_eq!(read["images"], json!(images));
    assert_eq!(read["text"], json!(["text", "| said | heard |\n|---|---|\n| 你好 | 你好 |"]));
}
