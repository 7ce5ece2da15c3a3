//! WenetSpeech, JSON lines of several tools and WeNet shards, built as they are published from real recordings, come out as the utterances they
//! hold; what is wrong with one is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/import.rs"]
mod import;

use std::fs;
use std::path::Path;

use echat::data::audio::{self, Clip};
use echat::data::prepare::Format;
use echat::data::shard::Index;
use import::{alignment, error, ffmpeg, ids, import, run, source, speech, write, write_wav};
use tempfile::TempDir;

/// WenetSpeech with one long Opus recording, of which the metadata name six segments, and one that is missing. Returns the long recording as
/// ffmpeg decodes it: Opus at 32 kbit/s changes much of a waveform, but all decoders make the same of it.
fn wenetspeech(root: &Path) -> Vec<i16> {
    let whole: Vec<i16> = speech(20).concat();
    let wav = root.join("whole.wav");
    write_wav(&wav, &whole);
    let aid = "Y0000000000_--5llN02F84";
    let path = format!("audio/train/youtube/B00000/{aid}.opus");
    ffmpeg(&wav, &root.join(&path), &["-c:a", "libopus", "-b:a", "32k"]);
    ffmpeg(&root.join(&path), &wav, &["-ar", "16000"]);
    let decoded = audio::load(&wav, &Clip::default()).unwrap();
    let segment = |n: usize, begin: f64, end: f64, subsets: &str, text: &str| {
        format!(
            r#"{{"sid":"{aid}_S{n:05}","confidence":1.0,"begin_time":{begin},"end_time":{end},"subsets":[{subsets}],"text":"{text}"}}"#
        )
    };
    let segments = [
        segment(0, 1.08, 3.4, r#""L","S""#, "怎么样这些日子住得还习惯吧"),
        segment(1, 3.4, 6.02, r#""L""#, "ａ I  love you 啊"),
        segment(2, 20.5, 22.75, r#""L","M""#, "第三段"),
        segment(3, 30.0, 29.0, r#""L""#, "反了"),
        segment(4, 4_000.0, 4_003.0, r#""L""#, "太远"),
        segment(5, 7.0, 9.0, r#""W""#, "弱标注"),
    ];
    let audio = |aid: &str, path: &str, segments: &str| {
        format!(
            r#"{{"aid":"{aid}","duration":24.57,"md5":"48af998e","path":"{path}","source":"youtube","tags":["drama"],"url":"https://x","segments":[{segments}]}}"#
        )
    };
    let missing = audio("Y2", "audio/train/youtube/B00000/Y2.opus", &segment(6, 0.0, 1.0, r#""L""#, "没有"));
    let json = format!(
        r#"{{"version":"1.0","audios":[{},{}],"more":{{"x":[1]}}}}"#,
        audio(aid, &path, &segments.join(",")),
        missing
    );
    write(&root.join("WenetSpeech.json"), json);
    decoded
}

#[test]
fn wenetspeech_is_cut_out_of_long_opus_recordings() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("WenetSpeech");
    let whole = wenetspeech(&root);
    let (all, rejects) = import(&dir, &root, &["L"]);
    assert_eq!(
        all.iter().map(|h| h.text.as_str()).collect::<Vec<_>>(),
        ["怎么样这些日子住得还习惯吧", "A I LOVE YOU啊", "第三段"]
    );
    for (held, (begin, end)) in all.iter().zip([(1.08, 3.4), (3.4, 6.02), (20.5, 22.75)]) {
        let (from, to) = ((begin * 16_000.0_f64).round() as usize, (end * 16_000.0_f64).round() as usize);
        assert_eq!(held.audio.len(), to - from, "{}", held.id);
        let (likeness, shift) = alignment(&held.audio, &whole[from..to]);
        assert!(likeness > 0.999 && shift == 0, "{}: {likeness} at {shift}", held.id);
    }
    let reasons = ["lies outside the file", "begins at 30 s and ends at 29 s", "Y2.opus: cannot be read"];
    assert_eq!(rejects.len(), reasons.len(), "{rejects:?}");
    assert!(rejects.iter().zip(reasons).all(|(line, reason)| line.contains(reason)), "{rejects:?}");
    let (small, _) = import(&dir, &root, &["s", "W"]);
    assert_eq!(ids(&small), ["Y0000000000_--5llN02F84_S00000", "Y0000000000_--5llN02F84_S00005"]);
    assert!(small[0].audio == all[0].audio);
    let (by_file, _) = import(&dir, &root.join("WenetSpeech.json"), &["M"]);
    assert_eq!(by_file.len(), 1);
}

#[test]
fn metadata_in_one_long_line_are_recognised_wherever_a_character_is_cut() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("metadata.json");
    for pad in 0..3 {
        let text = "字".repeat(30_000);
        write(&path, format!(r#"{{"audios":[{}{{"aid":"{text}"}}]}}"#, " ".repeat(pad)));
        assert_eq!(Format::detect(&path).unwrap(), Format::Wenetspeech, "{pad}");
    }
}

#[test]
fn wenetspeech_metadata_that_is_damaged_is_named() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("WenetSpeech");
    wenetspeech(&root);
    let unknown = error(&root, &["XL"]);
    assert!(unknown.contains("no subset `XL`; there is L, M, S, W, DEV, TEST_NET, TEST_MEETING"), "{unknown}");
    let json = fs::read_to_string(root.join("WenetSpeech.json")).unwrap();
    for (text, wanted) in [
        (json[..json.len() / 2].to_string(), "WenetSpeech.json:1: EOF while parsing"),
        (json.replace("\"begin_time\":1.08", "\"begin_time\":\"1.08\""), "invalid type: string"),
        (json.replace("\"audios\"", "\"audio\""), "missing field `audios`"),
        ("[]".into(), "expected an object with a list `audios`"),
        (r#"{"audios":[]}"#.into(), "no utterance with a recording and a transcript"),
    ] {
        write(&root.join("WenetSpeech.json"), text);
        let message = error(&root, &[]);
        assert!(message.contains(wanted), "{message} ≠ {wanted}");
    }
}

#[test]
fn json_lines_of_nemo_wenet_hugging_face_and_echat() {
    let dir = TempDir::new().unwrap();
    let speech = speech(3);
    let wav = |i: usize| dir.path().join(format!("clips/{i}.wav"));
    (0..3).for_each(|i| write_wav(&wav(i), &speech[i]));
    ffmpeg(&wav(1), &dir.path().join("clips/1.mp3"), &["-b:a", "64k"]);
    ffmpeg(&wav(2), &dir.path().join("clips/2.m4a"), &["-c:a", "aac"]);
    let nemo = dir.path().join("nemo.json");
    write(
        &nemo,
        "\u{feff}{\"audio_filepath\": \"clips/0.wav\", \"duration\": 0.5, \"offset\": 0.25, \"text\": \"零\", \"lang\": \"zh\"}\r\n\r\n{\"audio_filepath\": \"clips/0.wav\", \"text\": \"全\", \"id\": \"all\"}\r\n",
    );
    let (all, _) = import(&dir, &nemo, &[]);
    assert_eq!(ids(&all), ["0-1", "all"]);
    assert!(all[0].audio == speech[0][4_000..12_000] && all[1].audio == speech[0]);

    let raw = dir.path().join("data.list");
    write(
        &raw,
        format!(
            "{{\"key\": \"k0\", \"wav\": \"{}\", \"txt\": \"零\"}}\n{{\"key\": \"k1\", \"wav\": \"clips/1.mp3\", \"txt\": \"一\"}}\n",
            wav(0).display()
        ),
    );
    let (all, _) = import(&dir, &raw, &[]);
    assert_eq!(ids(&all), ["k0", "k1"]);
    assert!(all[0].audio == speech[0] && alignment(&all[1].audio, &speech[1]).0 > 0.9);

    let folder = dir.path().join("folder");
    fs::create_dir_all(&folder).unwrap();
    fs::rename(dir.path().join("clips/2.m4a"), folder.join("2.m4a")).unwrap();
    write(&folder.join("metadata.jsonl"), r#"{"file_name": "2.m4a", "transcription": "二"}"#);
    let (all, _) = import(&dir, &folder, &[]);
    assert_eq!((all[0].id.as_str(), all[0].text.as_str()), ("2-1", "二"));
    let (likeness, shift) = alignment(&all[0].audio, &speech[2]);
    assert!(likeness > 0.9 && shift.abs() <= 1, "{likeness} at {shift}");

    let tuples = dir.path().join("echat200.jsonl");
    write(
        &tuples,
        "{\"question_text\": \"问\", \"question_speech\": \"clips/0.wav\", \"answer\": \"答\", \"emotion\": \"<SAD>\"}\n{\"question_text\": \"问\", \"question_speech\": \"clips/1.wav\", \"response\": \"答\", \"emotion\": \"<DISGUST>\"}\n{\"text\": \"问\", \"wav\": \"clips/1.wav\", \"offset\": -1}\n",
    );
    let out = dir.path().join("tuples");
    run(&[source(&tuples, &[])], &out, 1.0).unwrap();
    let shard = Index::read(&out).unwrap().shards[0].open(&out).unwrap();
    let first = shard.get(0).unwrap();
    assert_eq!((first.response, first.emotion.unwrap().name(), shard.len()), (Some("答"), "sad", 1));
    let rejects = fs::read_to_string(out.join("rejects.jsonl")).unwrap();
    assert!(rejects.contains("echat200.jsonl:2") && rejects.contains("unknown emotion `<DISGUST>`"), "{rejects}");
    assert!(rejects.contains("echat200.jsonl:3") && rejects.contains("`offset` is -1"), "{rejects}");
    write(&tuples, "{\"text\": \"a\", \"wav\": \n");
    let broken = error(&tuples, &[]);
    assert!(broken.contains("echat200.jsonl:1: EOF"), "{broken}");
}

fn tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn wenet_shards_are_read_out_of_their_archives() {
    let dir = TempDir::new().unwrap();
    let speech = speech(3);
    let wav = |i: usize| dir.path().join(format!("{i}.wav"));
    (0..3).for_each(|i| write_wav(&wav(i), &speech[i]));
    let flac = dir.path().join("1.flac");
    ffmpeg(&wav(1), &flac, &[]);
    let read = |path: &Path| fs::read(path).unwrap();
    let (one, two) = (dir.path().join("shards_000000000.tar"), dir.path().join("shards_000000001.tar"));
    tar(
        &one,
        &[
            ("u0.txt", "零\n".as_bytes()),
            ("u0.wav", &read(&wav(0))),
            ("u1.txt", "一".as_bytes()),
            ("u1.flac", &read(&flac)),
        ],
    );
    tar(
        &two,
        &[
            ("d/u2.wav", &read(&wav(2))),
            ("d/u2.txt", "二".as_bytes()),
            ("u3.txt", "三".as_bytes()),
            ("u4.wav", &read(&wav(0))),
        ],
    );
    let list = dir.path().join("data.list");
    write(&list, format!("{}\nshards_000000001.tar\n", one.display()));
    let (all, rejects) = import(&dir, &list, &[]);
    assert_eq!(ids(&all), ["u0", "u1", "u2"]);
    assert_eq!(all.iter().map(|h| h.text.as_str()).collect::<Vec<_>>(), ["零", "一", "二"]);
    assert!(all.iter().zip(&speech).all(|(held, wanted)| held.audio == *wanted));
    assert!(rejects[0].contains("u3") && rejects[0].contains("a transcript without a recording"), "{rejects:?}");
    assert!(rejects[1].contains("u4") && rejects[1].contains("a recording without a transcript"), "{rejects:?}");
    let (alone, _) = import(&dir, &one, &[]);
    assert_eq!(ids(&alone), ["u0", "u1"]);
    let bytes = read(&one);
    fs::write(&one, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let truncated = error(&list, &[]);
    assert!(truncated.contains("shards_000000000.tar: damaged or truncated archive"), "{truncated}");
    fs::remove_file(&one).unwrap();
    let missing = error(&list, &[]);
    assert!(missing.contains("shards_000000000.tar: cannot be read"), "{missing}");
}
