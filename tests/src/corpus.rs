//! Forty short recordings: each character of their text is a tone, each emotion a loudness of the noise over it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::json;

/// What texts and responses are made of.
pub const CHARACTERS: &str = "今天很好你我快乐";
/// The five emotions.
pub const EMOTIONS: [&str; 5] = ["cheerful", "fearful", "angry", "sad", "neutral"];
/// Utterances in `train.jsonl` and `valid.jsonl`.
const COUNTS: [(&str, u64); 2] = [("train", 32), ("valid", 8)];
/// Samples a second.
const RATE: u32 = 16_000;

/// Writes `audio/`, `train.jsonl`, `valid.jsonl` and `text.jsonl` below `root`.
pub fn write(root: &Path) {
    fs::create_dir_all(root.join("audio")).unwrap();
    let mut text_only = String::new();
    for (split, count) in COUNTS {
        let mut manifest = String::new();
        for i in 0..count {
            let mut random = Random(i * 2 + u64::from(split == "valid"));
            let text: String = (0..2 + random.below(4)).map(|_| random.character()).collect();
            let response: String = text.chars().rev().collect();
            let emotion = EMOTIONS[(i % 5) as usize];
            let name = format!("audio/{split}-{i}.wav");
            write_wav(&root.join(&name), &recording(&text, (i % 5) as f64, &mut random));
            let id = format!("{split}-{i}");
            let line =
                json!({"audio_filepath": name, "id": id, "text": text, "response": response, "emotion": emotion});
            writeln!(manifest, "{line}").unwrap();
            writeln!(text_only, "{}", json!({"id": id, "text": response, "context": text})).unwrap();
        }
        fs::write(root.join(format!("{split}.jsonl")), manifest).unwrap();
    }
    fs::write(root.join("text.jsonl"), text_only).unwrap();
}

/// 0.3 s to 1.2 s.
fn recording(text: &str, emotion: f64, random: &mut Random) -> Vec<i16> {
    let mut samples = Vec::new();
    for character in text.chars() {
        let place = CHARACTERS.chars().position(|c| c == character).unwrap() as f64;
        let step = std::f64::consts::TAU * (200.0 + 150.0 * place) / f64::from(RATE);
        for n in 0..2_400 + random.below(800) {
            let noise = random.below(2_000) as f64 / 1_000.0 - 1.0;
            samples.push((6_000.0 * (n as f64 * step).sin() + 1_000.0 * (1.0 + emotion) * noise) as i16);
        }
    }
    samples
}

/// Writes a 16 kHz recording.
pub fn write_wav(path: &Path, samples: &[i16]) {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&sample| wav.write_sample(sample).unwrap());
    wav.finalize().unwrap();
}

/// A linear congruential generator (Knuth's constants).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn character(&mut self) -> char {
        let n = self.below(CHARACTERS.chars().count() as u64);
        CHARACTERS.chars().nth(n as usize).unwrap()
    }
}
