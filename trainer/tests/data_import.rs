//! AISHELL and Kaldi directories, built as they are published from real recordings (the syllables of gcin-voice), come out as the
//! utterances they hold; what is wrong with one is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/import.rs"]
mod import;

use std::fs;
use std::path::Path;

use echat::data::prepare::{Format, PrepareError, SourceError, survey};
use import::{error, held, ids, import, run, source, speech, write, write_wav};
use tempfile::TempDir;

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
