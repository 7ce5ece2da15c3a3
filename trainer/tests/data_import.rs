//! Every layout, built as it is published from real recordings (the syllables of gcin-voice), comes out as the utterances it
//! holds; what is wrong with one is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use echat::data::audio::{self, Clip};
use echat::data::prepare::{Format, PrepareError, PrepareOptions, Prepared, Source, SourceError, prepare, survey};
use echat::data::shard::Index;
use echat::dist::{Solo, World};
use tempfile::TempDir;

/// Where the Debian package gcin-voice puts its recordings: one directory a syllable.
const VOICE: &str = "/usr/share/gcin-voice/ogg";

/// `count` utterances of about two seconds: six recorded syllables each, 16 kHz.
fn speech(count: usize) -> Vec<Vec<i16>> {
    let mut syllables: Vec<PathBuf> = fs::read_dir(VOICE)
        .expect("install the Debian package gcin-voice")
        .map(|e| e.unwrap().path().join("3.ogg"))
        .filter(|p| p.is_file())
        .collect();
    syllables.sort();
    let of = |part: &[PathBuf]| part.iter().flat_map(|p| audio::load(p, &Clip::default()).unwrap()).collect();
    syllables.chunks_exact(6).take(count).map(of).collect()
}

fn write_wav(path: &Path, samples: &[i16]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&x| writer.write_sample(x).unwrap());
    writer.finalize().unwrap();
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn ffmpeg(from: &Path, to: &Path, options: &[&str]) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let done = Command::new("ffmpeg").args(["-y", "-v", "error", "-i"]).arg(from).args(options).arg(to).status();
    assert!(done.expect("install the Debian package ffmpeg").success());
}

fn source(path: &Path, subsets: &[&str]) -> Source {
    let format = Format::detect(path).unwrap();
    let subsets = subsets.iter().map(ToString::to_string).collect();
    Source { path: path.into(), format, subsets, rules: format.rules() }
}

fn run(sources: &[Source], out: &Path, max_bad_share: f64) -> Result<Prepared, PrepareError> {
    let options = PrepareOptions { max_bad_share, ..PrepareOptions::default() };
    let mut solo = Solo::new(World::single("here"));
    Ok(prepare(sources, out, &options, &mut solo, &mut |_| {})?.unwrap())
}

/// What a shard directory holds of each utterance.
#[derive(Debug, PartialEq)]
struct Held {
    id: String,
    text: String,
    speaker: Option<String>,
    audio: Vec<i16>,
}

fn held(out: &Path) -> Vec<Held> {
    let shards = Index::read(out).unwrap().shards;
    let shards: Vec<_> = shards.iter().map(|s| s.open(out).unwrap()).collect();
    let all = shards.iter().flat_map(|s| (0..s.len()).map(|i| s.get(i).unwrap()));
    all.map(|u| Held {
        id: u.id.into(),
        text: u.text.into(),
        speaker: u.speaker.map(Into::into),
        audio: u.audio.into_owned(),
    })
    .collect()
}

/// Prepares `path`; the utterances and the lines of rejects.jsonl.
fn import(dir: &TempDir, path: &Path, subsets: &[&str]) -> (Vec<Held>, Vec<String>) {
    let out = dir.path().join(format!("out{}", fs::read_dir(dir.path()).unwrap().count()));
    run(&[source(path, subsets)], &out, 1.0).unwrap();
    let rejects = fs::read_to_string(out.join("rejects.jsonl")).unwrap();
    (held(&out), rejects.lines().map(Into::into).collect())
}

fn ids(held: &[Held]) -> Vec<&str> {
    held.iter().map(|h| h.id.as_str()).collect()
}

fn error(path: &Path, subsets: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let error = run(&[source(path, subsets)], &dir.path().join("out"), 1.0).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// AISHELL-1 with two speakers in train, one in dev, one in test; the last recording of train has no transcript.
fn aishell1(root: &Path) -> Vec<Vec<i16>> {
    let speech = speech(6);
    let place =
        |part: &str, speaker: &str, n: usize| root.join(format!("wav/{part}/{speaker}/BAC009{speaker}W{n:04}.wav"));
    for (i, (part, speaker, n)) in [
        ("train", "S0002", 122),
        ("train", "S0002", 123),
        ("train", "S0003", 121),
        ("dev", "S0724", 121),
        ("test", "S0764", 121),
        ("train", "S0003", 499),
    ]
    .into_iter()
    .enumerate()
    {
        write_wav(&place(part, speaker, n), &speech[i]);
    }
    let transcript = "BAC009S0002W0122 而 对 楼市 成交 抑制 作用 最 大 的 限 购\r\n\
        BAC009S0002W0123 也 成为 地方 政府 的 眼中 ｔ恤\r\n\
        BAC009S0003W0121 ＡＢ 股\r\n\
        BAC009S0724W0121 广州市 房地产 中介 协会 分析\r\n\
        BAC009S0764W0121 甚至 出现 交易 几乎 停滞 的 情况\r\n";
    write(&root.join("transcript/aishell_transcript_v0.8.txt"), format!("\u{feff}{transcript}"));
    speech
}

#[test]
fn aishell1_as_published() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("data_aishell");
    let speech = aishell1(&root);
    for path in [root.as_path(), dir.path()] {
        let (all, rejects) = import(&dir, path, &[]);
        let order = ["S0724W0121", "S0764W0121", "S0002W0122", "S0002W0123", "S0003W0121"];
        assert_eq!(ids(&all), order.map(|id| format!("BAC009{id}")));
        assert_eq!(rejects, [""; 0]);
        let texts = [
            "广州市房地产中介协会分析",
            "甚至出现交易几乎停滞的情况",
            "而对楼市成交抑制作用最大的限购",
            "也成为地方政府的眼中T恤",
            "AB股",
        ];
        assert_eq!(all.iter().map(|h| h.text.as_str()).collect::<Vec<_>>(), texts);
        assert_eq!(all[2].speaker.as_deref(), Some("S0002"));
        for (held, wanted) in all.iter().zip([3, 4, 0, 1, 2]) {
            assert!(held.audio == speech[wanted], "{}", held.id);
        }
    }
    let (train, _) = import(&dir, &root, &["train"]);
    assert_eq!(train.len(), 3);
    let counted = survey(&[source(&root, &[])], 2).unwrap();
    assert_eq!((counted.utterances, counted.untranscribed, counted.unusable), (5, 1, 0));
    assert_eq!(counted.examples[1].written, "甚至 出现 交易 几乎 停滞 的 情况");
}

#[test]
fn aishell1_with_what_can_be_wrong() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("data_aishell");
    aishell1(&root);
    let transcript = root.join("transcript/aishell_transcript_v0.8.txt");
    let good = fs::read_to_string(&transcript).unwrap();
    write(&transcript, good.clone() + "BAC009S9999W0001 没有 声音\nBAC009S0002W0122 又 一次\n");
    let (all, rejects) = import(&dir, &root, &[]);
    assert_eq!(all.len(), 5);
    assert!(rejects[0].contains("txt:7") && rejects[0].contains("comes twice"), "{rejects:?}");
    assert!(rejects[1].contains("BAC009S9999W0001") && rejects[1].contains("without a recording"), "{rejects:?}");
    assert_eq!(rejects.len(), 2);
    let unknown = error(&root, &["valid"]);
    assert!(unknown.contains("no subset `valid`; there is dev, test, train"), "{unknown}");
    fs::write(&transcript, [good.as_bytes(), b"BAC009S0002W0124 \xc4\xe3\n"].concat()).unwrap();
    let encoded = error(&root, &[]);
    assert!(encoded.contains("txt:6: not UTF-8"), "{encoded}");
    // Before the speakers' archives are unpacked.
    fs::remove_dir_all(root.join("wav")).unwrap();
    write(&root.join("wav/S0002.tar.gz"), "");
    let packed = error(&root, &[]);
    assert!(packed.contains("S0002.tar.gz: still packed") && packed.contains("tar xzf"), "{packed}");
}

#[test]
fn aishell2_as_published() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("iOS/data");
    let speech = speech(3);
    for (i, audio) in speech.iter().enumerate() {
        write_wav(&root.join(format!("wav/C0001/IC0001W000{i}.wav")), audio);
    }
    let scp = |i: usize| format!("IC0001W000{i}\twav/C0001/IC0001W000{i}.wav\r\n");
    write(&root.join("wav.scp"), (0..4).map(scp).collect::<String>());
    write(
        &root.join("trans.txt"),
        "IC0001W0000\t听流年，atm？\r\nIC0001W0001\t赵孟𫖯'\r\nIC0001W0002\t(打开) hello world\r\nIC0001W0009\t无\r\n",
    );
    let (all, rejects) = import(&dir, &root, &[]);
    assert_eq!(all.iter().map(|h| h.text.as_str()).collect::<Vec<_>>(), ["听流年ATM", "赵孟頫", "打开HELLO WORLD"]);
    assert!(all.iter().zip(&speech).all(|(held, wanted)| held.audio == *wanted));
    assert_eq!(all[0].speaker.as_deref(), Some("C0001"));
    assert!(rejects[0].contains("wav.scp:4") && rejects[0].contains("without a transcript"), "{rejects:?}");
    assert!(rejects[1].contains("trans.txt:4") && rejects[1].contains("without a recording"), "{rejects:?}");
}

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

/// How alike two recordings are, and at which shift (within 3 ms) they are most so.
fn alignment(a: &[i16], b: &[i16]) -> (f64, i64) {
    let at = |shift: i64| {
        let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
        for t in 100..a.len() as i64 - 100 {
            let (x, y) = (f64::from(a[t as usize]), f64::from(b[(t + shift) as usize]));
            (ab, aa, bb) = (ab + x * y, aa + x * x, bb + y * y);
        }
        ab / (aa * bb).sqrt()
    };
    (-48..=48).map(|shift| (at(shift), shift)).max_by(|x, y| x.0.total_cmp(&y.0)).unwrap()
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
fn kaldi_directories_whole_and_by_segments() {
    let dir = TempDir::new().unwrap();
    let speech = speech(4);
    let whole = dir.path().join("whole");
    for (i, audio) in speech.iter().enumerate() {
        write_wav(&whole.join(format!("wavs/u{i}.wav")), audio);
    }
    let absolute = whole.join("wavs/u1.wav");
    write(
        &whole.join("wav.scp"),
        format!("u0 wavs/u0.wav\nu1 {}\nu2 wavs/u2.wav\nu3 wavs/none.wav\nu5 wavs/u2.wav\n", absolute.display()),
    );
    write(&whole.join("text"), "u0 你 好 hello world\nu1 一\nu2 二\nu3 三\nu4 四\n");
    write(&whole.join("utt2spk"), "u0 s0\nu1 s1\n");
    let (all, rejects) = import(&dir, &whole, &[]);
    assert_eq!(ids(&all), ["u0", "u1", "u2"]);
    assert_eq!((all[0].text.as_str(), all[0].speaker.as_deref()), ("你好hello world", Some("s0")));
    assert!(all.iter().zip(&speech).all(|(held, wanted)| held.audio == *wanted));
    for (line, reason) in rejects.iter().zip(["none.wav: cannot be read", "wav.scp:5", "text:5"]) {
        assert!(line.contains(reason), "{rejects:?}");
    }

    let cut = dir.path().join("cut");
    write_wav(&cut.join("rec.wav"), &speech.concat());
    write(&cut.join("wav.scp"), format!("rec {}\n", cut.join("rec.wav").display()));
    let seconds: Vec<f64> =
        speech.iter().scan(0.0, |at, s| Some(std::mem::replace(at, *at + s.len() as f64 / 16_000.0))).collect();
    let mut segments: String = (0..3).map(|i| format!("u{i} rec {:.6} {:.6}\n", seconds[i], seconds[i + 1])).collect();
    segments += &format!("u3 rec {:.6} -1\nu4 rec 2.0 1.0\nu5 other 0 1\nu6 rec 0 1\n", seconds[3]);
    write(&cut.join("segments"), segments);
    write(&cut.join("text"), "u0 零\nu1 一\nu2 二\nu3 三\nu4 四\nu5 五\n");
    let (all, rejects) = import(&dir, &cut, &[]);
    assert_eq!(ids(&all), ["u0", "u1", "u2", "u3"]);
    assert!(all.iter().zip(&speech).all(|(held, wanted)| held.audio == *wanted));
    for (line, reason) in
        rejects.iter().zip(["begins at 2 s and ends at 1 s", "`other` is not in wav.scp", "without a transcript"])
    {
        assert!(line.contains(reason), "{rejects:?}");
    }
}

#[test]
fn kaldi_commands_and_archives_are_refused() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("data");
    write(&root.join("text"), "u0 零\n");
    for (entry, reason) in [
        ("sph2pipe -f wav a.sph |", "runs nothing that a data file asks for"),
        ("| cat", "runs nothing that a data file asks for"),
        ("raw.ark:1234", "position in a Kaldi archive"),
        ("", "expected `RECORDING FILE`"),
    ] {
        write(&root.join("wav.scp"), format!("u0 {entry}\n"));
        let message = error(&root, &[]);
        assert!(message.contains("wav.scp:1") && message.contains(reason), "{message}");
    }
    write(&root.join("wav.scp"), "u0 a.wav\n");
    write(&root.join("segments"), "u0 rec 1.0\n");
    let message = error(&root, &[]);
    assert!(message.contains("segments:1: expected `UTTERANCE RECORDING BEGIN END`"), "{message}");
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

#[test]
fn an_id_that_comes_again_is_left_out_whichever_source_it_is_in() {
    let dir = TempDir::new().unwrap();
    let speech = speech(2);
    (0..2).for_each(|i| write_wav(&dir.path().join(format!("{i}.wav")), &speech[i]));
    let list = |name: &str, lines: &[(&str, usize)]| {
        let line = |(id, i): &(&str, usize)| {
            format!("{{\"id\": \"{id}\", \"audio_filepath\": \"{i}.wav\", \"text\": \"t\"}}\n")
        };
        let path = dir.path().join(name);
        write(&path, lines.iter().map(line).collect::<String>());
        source(&path, &[])
    };
    let sources = [list("a.jsonl", &[("x", 0), ("y", 1)]), list("b.jsonl", &[("z", 0), ("x", 1)])];
    let out = dir.path().join("out");
    let refused = run(&sources, &out, 0.01).unwrap_err();
    assert!(matches!(refused, PrepareError::TooManyBad { bad: 1, total: 4, .. }), "{refused}");
    assert!(refused.to_string().contains("b.jsonl:2: its id was used before"), "{refused}");
    assert_eq!(run(&sources, &out, 0.5).unwrap().index.utterances, 3);
    assert_eq!(ids(&held(&out)), ["x", "y", "z"]);
    assert_eq!(survey(&sources, 0).unwrap().duplicates, 1);
}

#[test]
fn what_is_no_corpus_is_named() {
    let dir = TempDir::new().unwrap();
    let detect = |path: &Path| Format::detect(path).unwrap_err();
    assert!(matches!(detect(&dir.path().join("none")), SourceError::Unreadable { .. }));
    assert!(matches!(detect(dir.path()), SourceError::UnknownFormat { .. }));
    let note = dir.path().join("note.txt");
    write(&note, "hello\n");
    assert!(matches!(detect(&note), SourceError::UnknownFormat { .. }));
    write(&note, [0xff, 0xfe, 0, b'\n']);
    assert!(matches!(detect(&note), SourceError::UnknownFormat { .. }));
    let empty = dir.path().join("empty.jsonl");
    write(&empty, "\r\n\n");
    assert!(error(&empty, &[]).contains("empty.jsonl: no utterance with a recording and a transcript"));
    assert!(error(&empty, &["train"]).contains("no subset `train`; there is none in the layout jsonl"));
    let all_bad = dir.path().join("bad.jsonl");
    write(&all_bad, "{\"wav\": \"none.wav\", \"text\": \"t\"}\n");
    let message = error(&all_bad, &[]);
    assert!(message.contains("no utterance") && message.contains("rejects.jsonl"), "{message}");
}
