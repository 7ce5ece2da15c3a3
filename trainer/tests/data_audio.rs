//! Recordings of every supported format come out as the sound that went in; every bad one as its own error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};
use std::process::Command;

use echat::data::audio::{AudioError, Clip, Input, SAMPLE_RATE, cut, load, probe};
use tempfile::TempDir;

const TONE: f64 = 440.0;
const LEVEL: f64 = 0.5;

/// Writes `seconds` of the tone, the same in every channel, as 16-bit wav.
fn tone_wav(path: &Path, rate: u32, channels: u16, seconds: f64) -> u64 {
    let spec =
        hound::WavSpec { channels, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    let frames = (seconds * f64::from(rate)).round() as u64;
    for t in 0..frames {
        let x = LEVEL * (TAU * TONE * t as f64 / f64::from(rate)).sin();
        for _ in 0..channels {
            writer.write_sample((x * 32_767.0).round() as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
    frames
}

/// Converts by ffmpeg; `None`, with a line saying so, where it is not installed or lacks the encoder.
fn ffmpeg(from: &Path, to: &Path, options: &[&str]) -> Option<()> {
    let done = Command::new("ffmpeg").args(["-y", "-v", "error", "-i"]).arg(from).args(options).arg(to).status();
    match done {
        Ok(status) if status.success() => Some(()),
        Ok(_) => panic!("ffmpeg could not write {}", to.display()),
        Err(e) => {
            println!("not run: ffmpeg: {e}");
            None
        }
    }
}

/// Amplitude and phase of the tone in 16 kHz samples, and what else there is (root mean square), by least squares.
fn measure_tone(samples: &[i16]) -> (f64, f64, f64) {
    let (mut c, mut s) = (0.0, 0.0);
    let n = samples.len() as f64;
    let angle = |t: usize| TAU * TONE * t as f64 / f64::from(SAMPLE_RATE);
    for (t, &x) in samples.iter().enumerate() {
        let x = f64::from(x) / 32_768.0;
        c += 2.0 * x * angle(t).cos() / n;
        s += 2.0 * x * angle(t).sin() / n;
    }
    let rest = samples.iter().enumerate().map(|(t, &x)| {
        let fit = c * angle(t).cos() + s * angle(t).sin();
        (f64::from(x) / 32_768.0 - fit).powi(2)
    });
    (c.hypot(s), c.atan2(s), (rest.sum::<f64>() / n).sqrt())
}

struct Format {
    name: &'static str,
    file: &'static str,
    options: &'static [&'static str],
    /// By how many frames the sound may be shifted.
    shift: f64,
    noise: f64,
    /// By how much a sample of a clip may differ from that of the whole recording: Opus decoders converge within 80 ms but not to the bit.
    clip: i32,
}

const FORMATS: &[Format] = &[
    Format { name: "wav", file: "a.wav", options: &[], shift: 0.02, noise: 2e-4, clip: 1 },
    Format { name: "wav24", file: "a24.wav", options: &["-c:a", "pcm_s24le"], shift: 0.02, noise: 2e-4, clip: 1 },
    Format { name: "wavf32", file: "f.wav", options: &["-c:a", "pcm_f32le"], shift: 0.02, noise: 2e-4, clip: 1 },
    Format { name: "flac", file: "a.flac", options: &[], shift: 0.02, noise: 2e-4, clip: 1 },
    Format { name: "alac", file: "alac.m4a", options: &["-c:a", "alac"], shift: 0.02, noise: 2e-4, clip: 1 },
    Format {
        name: "ogg",
        file: "a.ogg",
        options: &["-c:a", "libvorbis", "-q:a", "6"],
        shift: 0.2,
        noise: 1e-2,
        clip: 1,
    },
    Format { name: "mp3", file: "a.mp3", options: &["-b:a", "64k"], shift: 0.5, noise: 1e-2, clip: 1 },
    Format {
        name: "opus",
        file: "a.opus",
        options: &["-c:a", "libopus", "-b:a", "64k"],
        shift: 0.5,
        noise: 1e-2,
        clip: 40,
    },
    // Without noise substitution, whose noise depends on what was decoded before.
    Format { name: "aac", file: "a.m4a", options: &["-c:a", "aac", "-aac_pns", "0"], shift: 0.5, noise: 1e-2, clip: 1 },
];

#[test]
fn a_tone_survives_every_format_at_every_rate() {
    let dir = TempDir::new().unwrap();
    let wav = dir.path().join("tone.wav");
    for rate in [8_000u32, 16_000, 22_050, 44_100, 48_000] {
        let frames = tone_wav(&wav, rate, 2, 2.0);
        for f in FORMATS {
            let path = dir.path().join(format!("{rate}-{}", f.file));
            let Some(()) = ffmpeg(&wav, &path, f.options) else { return };
            let samples = load(&path, &Clip::default()).unwrap();
            let expected = (frames * 16_000).div_ceil(u64::from(rate));
            let len = samples.len() as u64;
            let what = format!("{} at {rate} Hz", f.name);
            assert_eq!(len, expected, "{what}: samples");
            assert_eq!(probe(&path, &Clip::default()).unwrap(), len, "{what}: probe");
            // Away from the ends, over whole periods of 440 Hz (400 samples are 11).
            let (level, phase, noise) = measure_tone(&samples[4000..28_000]);
            // LAME scales its input by 0.95 (its default), so that is what is in the file.
            let written = if f.name == "mp3" { 0.95 * LEVEL } else { LEVEL };
            assert!((level / written - 1.0).abs() <= 0.02, "{what}: level {level}");
            assert!(noise <= f.noise, "{what}: noise {noise}");
            let shift = (phase / TAU / TONE * f64::from(rate)).abs();
            assert!(shift <= f.shift, "{what}: shifted by {shift} frames");
        }
    }
}

#[test]
fn a_clip_is_that_part_of_the_whole() {
    let dir = TempDir::new().unwrap();
    let wav = dir.path().join("tone.wav");
    // A slow sweep, so that every place sounds different.
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&wav, spec).unwrap();
    for t in 0..16_000 * 6 {
        let s = f64::from(t) / 16_000.0;
        writer.write_sample((16_000.0 * (TAU * (200.0 + 100.0 * s) * s).sin()) as i16).unwrap();
    }
    writer.finalize().unwrap();
    for f in FORMATS {
        let path = dir.path().join(f.file);
        let Some(()) = ffmpeg(&wav, &path, f.options) else { return };
        let whole = load(&path, &Clip::default()).unwrap();
        for offset in [0.0, 0.25, 1.5, 4.1875] {
            let clip = Clip { offset, duration: Some(1.25), max_seconds: None };
            let part = load(&path, &clip).unwrap();
            let start = (offset * 16_000.0) as usize;
            assert_eq!(part.len(), 20_000, "{} from {offset}", f.name);
            assert_eq!(probe(&path, &clip).unwrap(), 20_000);
            let worst =
                part.iter().zip(&whole[start..]).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).max().unwrap();
            assert!(worst <= f.clip, "{} from {offset}: differs by {worst}", f.name);
        }
        let rest = load(&path, &Clip { offset: 5.0, ..Clip::default() }).unwrap();
        assert_eq!(rest.len(), whole.len() - 80_000, "{}", f.name);
    }
}

#[test]
fn sixteen_bit_mono_at_16_khz_is_bit_exact() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("exact.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    let wanted: Vec<i16> = (i16::MIN..=i16::MAX).collect();
    for &x in &wanted {
        writer.write_sample(x).unwrap();
    }
    writer.finalize().unwrap();
    assert_eq!(load(&path, &Clip::default()).unwrap(), wanted);
}

#[test]
fn channels_are_averaged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("stereo.wav");
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for t in 0..1000i16 {
        writer.write_sample(t * 4).unwrap();
        writer.write_sample(-t * 2).unwrap();
    }
    writer.finalize().unwrap();
    assert_eq!(load(&path, &Clip::default()).unwrap(), (0..1000).collect::<Vec<i16>>());
}

#[test]
fn the_content_decides_not_the_name() {
    let dir = TempDir::new().unwrap();
    let wav = dir.path().join("tone.wav");
    tone_wav(&wav, 16_000, 1, 0.5);
    let renamed = dir.path().join("tone.mp3");
    std::fs::copy(&wav, &renamed).unwrap();
    assert_eq!(load(&renamed, &Clip::default()).unwrap(), load(&wav, &Clip::default()).unwrap());
}

fn bad(path: &Path) -> AudioError {
    let error = load(path, &Clip::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with(&path.display().to_string()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    error
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn missing_file_is_unreadable() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(bad(&dir.path().join("none.wav")), AudioError::Unreadable { .. }));
    assert!(matches!(bad(dir.path()), AudioError::Unreadable { .. }));
}

#[test]
fn empty_file_is_empty() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(bad(&write(&dir, "zero.wav", b"")), AudioError::EmptyFile { .. }));
}

#[test]
fn text_is_unsupported() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "text.wav", "这不是声音。\n".repeat(500).as_bytes());
    assert!(matches!(bad(&path), AudioError::Unsupported { .. }));
}

#[test]
fn a_codec_not_built_in_is_unsupported() {
    let dir = TempDir::new().unwrap();
    let (wav, wma) = (dir.path().join("tone.wav"), dir.path().join("tone.ac3"));
    tone_wav(&wav, 48_000, 1, 0.5);
    let Some(()) = ffmpeg(&wav, &wma, &["-c:a", "ac3"]) else { return };
    assert!(matches!(bad(&wma), AudioError::Unsupported { .. }));
}

/// A slow sweep, so that every place sounds different.
fn sweep_wav(path: &Path, rate: u32, seconds: u32) {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for t in 0..rate * seconds {
        let s = f64::from(t) / f64::from(rate);
        writer.write_sample((16_000.0 * (TAU * (200.0 + 100.0 * s) * s).sin()) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

#[test]
fn clips_cut_in_one_pass_are_those_read_one_by_one() {
    let dir = TempDir::new().unwrap();
    let wav = dir.path().join("sweep.wav");
    let clip = |offset, duration| Clip { offset, duration: Some(duration), max_seconds: None };
    // Out of order, overlapping, adjacent, twice the same, one to the end.
    let clips = [
        clip(4.5, 1.0),
        clip(0.0, 0.5),
        clip(0.25, 2.0),
        clip(2.25, 0.125),
        clip(2.25, 0.125),
        Clip { offset: 5.0, ..Clip::default() },
    ];
    for rate in [16_000, 44_100] {
        sweep_wav(&wav, rate, 6);
        for f in FORMATS {
            let path = dir.path().join(f.file);
            let Some(()) = ffmpeg(&wav, &path, f.options) else { return };
            let bytes = std::fs::read(&path).unwrap();
            let from_file = cut(Input::File(&path), &clips);
            let from_memory = cut(Input::Bytes { name: Path::new("sweep"), bytes: &bytes }, &clips);
            for ((cut, memory), clip) in from_file.into_iter().zip(from_memory).zip(&clips) {
                let (cut, alone) = (cut.unwrap(), load(&path, clip).unwrap());
                let worst = cut.iter().zip(&alone).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).max().unwrap();
                assert_eq!(cut.len(), alone.len(), "{} {clip:?}", f.name);
                assert!(worst <= f.clip, "{} {clip:?}: differs by {worst}", f.name);
                assert!(cut == memory.unwrap(), "{} {clip:?}", f.name);
            }
        }
    }
}

#[test]
fn damage_spoils_the_clips_it_touches() {
    let dir = TempDir::new().unwrap();
    let (wav, flac) = (dir.path().join("sweep.wav"), dir.path().join("sweep.flac"));
    sweep_wav(&wav, 16_000, 20);
    let Some(()) = ffmpeg(&wav, &flac, &[]) else { return };
    let bytes = std::fs::read(&flac).unwrap();
    let half = write(&dir, "half.flac", &bytes[..bytes.len() / 2]);
    let clip = |offset, duration| Clip { offset, duration: Some(duration), max_seconds: Some(3.0) };
    let cut = cut(Input::File(&half), &[clip(17.0, 1.0), clip(1.0, 2.0), clip(2.0, 3.5), clip(30.0, 1.0)]);
    assert!(matches!(&cut[0], Err(AudioError::Truncated { .. })), "{:?}", cut[0]);
    assert_eq!(cut[1].as_ref().unwrap(), &load(&wav, &clip(1.0, 2.0)).unwrap());
    assert!(matches!(&cut[2], Err(AudioError::TooLong { .. })), "{:?}", cut[2]);
    assert!(matches!(&cut[3], Err(AudioError::Truncated { .. })), "{:?}", cut[3]);
}

#[test]
fn a_wav_without_samples_has_no_samples() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("none.wav");
    tone_wav(&path, 16_000, 1, 0.0);
    assert!(matches!(bad(&path), AudioError::NoSamples { .. }));
}

#[test]
fn a_file_cut_short_is_truncated() {
    let dir = TempDir::new().unwrap();
    let wav = dir.path().join("tone.wav");
    // Long enough for the half to hold more than an ogg file's headers.
    tone_wav(&wav, 16_000, 1, 60.0);
    for f in FORMATS {
        let path = dir.path().join(f.file);
        let options = if f.name == "aac" || f.name == "alac" {
            [f.options, &["-movflags", "+faststart"]].concat()
        } else {
            f.options.to_vec()
        };
        let Some(()) = ffmpeg(&wav, &path, &options) else { return };
        let bytes = std::fs::read(&path).unwrap();
        let cut = write(&dir, &format!("cut-{}", f.file), &bytes[..bytes.len() / 2]);
        let error = bad(&cut);
        assert!(matches!(error, AudioError::Truncated { .. }), "{}: {error}", f.name);
    }
}

#[test]
fn a_flipped_flac_is_damaged() {
    let dir = TempDir::new().unwrap();
    let (wav, flac) = (dir.path().join("tone.wav"), dir.path().join("tone.flac"));
    tone_wav(&wav, 16_000, 1, 2.0);
    let Some(()) = ffmpeg(&wav, &flac, &[]) else { return };
    let mut bytes = std::fs::read(&flac).unwrap();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 0x10;
    let error = bad(&write(&dir, "flipped.flac", &bytes));
    assert!(matches!(error, AudioError::Damaged { .. } | AudioError::Truncated { .. }), "{error}");
}

#[test]
fn nan_is_not_finite() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("nan.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for x in [0.0, f32::NAN, 0.5] {
        writer.write_sample(x).unwrap();
    }
    writer.finalize().unwrap();
    assert!(matches!(bad(&path), AudioError::NotFinite { .. }));
}

#[test]
fn a_clip_past_the_end_is_outside_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tone.wav");
    tone_wav(&path, 16_000, 1, 2.0);
    for (offset, duration) in [(0.0, Some(3.0)), (2.5, None), (2.0, None), (1.5, Some(1.0)), (10.0, Some(1.0))] {
        let clip = Clip { offset, duration, max_seconds: None };
        for error in [load(&path, &clip).map(|_| ()).unwrap_err(), probe(&path, &clip).map(|_| ()).unwrap_err()] {
            assert!(matches!(error, AudioError::OutsideFile { .. }), "{offset} {duration:?}: {error}");
        }
    }
    // Manifests round: a little past the end is the end.
    let clip = Clip { offset: 0.0, duration: Some(2.05), max_seconds: None };
    assert_eq!(load(&path, &clip).unwrap().len(), 32_000);
    assert_eq!(probe(&path, &clip).unwrap(), 32_000);
}

#[test]
fn more_than_allowed_is_too_long() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tone.wav");
    tone_wav(&path, 44_100, 1, 2.0);
    let clip = |max| Clip { max_seconds: Some(max), ..Clip::default() };
    assert!(matches!(load(&path, &clip(1.9)), Err(AudioError::TooLong { .. })));
    assert!(matches!(probe(&path, &clip(1.9)), Err(AudioError::TooLong { .. })));
    assert_eq!(load(&path, &clip(2.0)).unwrap().len(), 32_000);
}
