//! The miniature's voices, and the corpus that `echat synth` makes with them. Needs the Debian packages gcin-voice and espeak-ng, as
//! `launch/test` installs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/mini.rs"]
mod mini;

use echat::data::emotion::Emotion;
use echat::data::mini::config::MiniConfig;
use echat::data::mini::plan::Part;
use echat::data::mini::script::Script;
use echat::data::mini::sound::Sound;
use echat::data::mini::speak::{Job, Voices};
use echat::data::{Corpus, CorpusOptions, Target};
use mini::{build, complaint, echat, files, job, make, read, said, small};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

#[test]
fn speech_depends_on_seed_id_text_emotion_and_voice_alone() {
    let config = small();
    let script = Script::load(&config.sentences).unwrap();
    let reading = &script.sentences.iter().find(|sentence| sentence.text == "妈妈明天来看我").unwrap().reading;
    let pinyin = reading.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let other_seed = MiniConfig { seed: config.seed + 1, ..config.clone() };
    for voice in ["gcin-3", "espeak-f2"] {
        let speak = |job: &Job| Voices::new(&config).unwrap().say(job).unwrap();
        let base = job("a", "妈妈明天来看我", Emotion::Sad, voice);
        let speech = speak(&base);
        let mut used = Voices::new(&config).unwrap();
        used.say(&job("b", "你好", Emotion::Angry, voice)).unwrap();
        assert!(used.say(&base).unwrap() == speech, "{voice}: what was said before changes it");
        assert!(speak(&Job { text: pinyin.clone(), ..base.clone() }) == speech, "{voice}: pinyin");
        let others = [
            Job { id: "b".into(), ..base.clone() },
            Job { text: "妈妈明天来".into(), ..base.clone() },
            Job { emotion: Emotion::Cheerful, ..base.clone() },
            Job { voice: "gcin-5".into(), ..base.clone() },
        ];
        for other in others {
            assert!(speak(&other) != speech, "{voice}: {other:?}");
        }
        assert!(Voices::new(&other_seed).unwrap().say(&base).unwrap() != speech, "{voice}: seed");
    }
}

#[test]
fn the_corpus_is_the_same_spoken_by_one_program_and_by_three() {
    let root = tempfile::tempdir().unwrap();
    let [texts, one, three] = ["texts", "one", "three"].map(|name| root.path().join(name));
    make(&small(), &texts);
    let table = build(&texts, &one, 1);
    assert!(table.contains("train          sum              40") && table.contains("4 speakers"), "{table}");
    build(&texts, &three, 3);
    let without_journal = |root: &Path| {
        let mut all = files(root);
        // Its lines are in the order in which things were done.
        all.remove(Path::new("journal.jsonl")).unwrap();
        all
    };
    let (one, three) = (without_journal(&one), without_journal(&three));
    assert_eq!(
        one.keys().filter(|path| path.extension().is_some_and(|e| e == "wav")).count(),
        40 + 10 + 10 + 20 + 12 + 30
    );
    assert!(one == three);
}

#[test]
fn loudness_tells_nothing_and_the_rest_tells_the_emotion() {
    let root = tempfile::tempdir().unwrap();
    let mut config = small();
    config.counts.test_known = 100;
    let report = make(&config, root.path());
    let mut voices = Voices::new(&config).unwrap();
    let mut sounds: BTreeMap<&str, Vec<Sound>> = BTreeMap::new();
    for entry in &report.parts.iter().find(|(part, _)| *part == Part::TestKnown).unwrap().1 {
        let speech = voices.say(&job(&entry.id, &entry.spoken, entry.emotion.parse().unwrap(), &entry.voice)).unwrap();
        sounds.entry(entry.emotion).or_default().push(Sound::of(&speech, entry.text.chars().count()));
    }
    let sounds: BTreeMap<&str, Sound> = sounds.into_iter().map(|(name, all)| (name, Sound::mean(&all))).collect();
    assert_eq!(sounds.len(), 5);
    for (name, sound) in &sounds {
        assert!((sound.level_db - 20.0 * 0.07f64.log10()).abs() <= 0.05, "{name}: {sound:?}");
    }
    let neutral = sounds["neutral"];
    assert!(sounds["sad"].pace > 1.1 * neutral.pace && sounds["cheerful"].pace < 0.97 * neutral.pace, "{sounds:?}");
    assert!(sounds["sad"].brightness < 0.85 * neutral.brightness, "{sounds:?}");
    assert!(sounds["angry"].brightness > 1.2 * neutral.brightness, "{sounds:?}");
    assert!(sounds["cheerful"].rise > neutral.rise && sounds["sad"].rise < neutral.rise, "{sounds:?}");
}

#[test]
fn the_trainer_reads_manifests_shards_and_text() {
    let root = tempfile::tempdir().unwrap();
    let (texts, out) = (root.path().join("texts"), root.path().join("corpus"));
    make(&small(), &texts);
    build(&texts, &out, 2);
    let open = |path: PathBuf, target: Target| {
        let options = CorpusOptions { target, min_seconds: 0.1, max_seconds: 30.0, max_bad_share: 0.0, verify: true };
        Corpus::open(&[path], &options).unwrap()
    };
    for (part, size) in [("train", 40), ("test_unseen", 20), ("pairs", 12)] {
        let (asked, line) = (&read(&texts, part)[1], &read(&out, part)[1]);
        for path in [out.join(part), out.join(format!("{part}.jsonl"))] {
            let corpus = open(path, Target::Response);
            assert_eq!(corpus.len(), size);
            let utterance = corpus.get(1).unwrap();
            assert_eq!(
                (utterance.id, utterance.text),
                (asked["id"].as_str().unwrap(), asked["text"].as_str().unwrap())
            );
            assert_eq!((utterance.response, utterance.speaker), (asked["response"].as_str(), asked["voice"].as_str()));
            assert_eq!(utterance.audio.len() as f64 / 16_000.0, line["duration"].as_f64().unwrap());
            assert!(utterance.audio.iter().all(|x| x.unsigned_abs() < i16::MAX as u16), "cut at full scale");
        }
    }
    assert_eq!(open(out.join("words"), Target::Text).len(), 30);
    let text = open(texts.join("text.jsonl"), Target::Text);
    assert_eq!(text.len(), 400);
    assert!(text.get(0).unwrap().is_text_only() && text.get(0).unwrap().context.is_some());
    let table = said(echat(&["mini", "sounds", out.join("test_known.jsonl").to_str().unwrap()]).output().unwrap());
    assert_eq!(table.lines().count(), 6);
    assert!(table.lines().skip(1).all(|line| line.contains("-23.10")), "{table}");
}

#[test]
fn one_text_or_jobs_line_by_line_give_the_same_recording() {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = ["one.wav", "two.wav"].map(|name| root.path().join(name));
    let config = "configs/mini/corpus.toml";
    let words = ["--id", "a", "--text", "今天下雨", "--emotion", "sad", "--voice", "gcin-5", "--out"];
    let args = [&["mini", "speak", config][..], &words[..], &[one.to_str().unwrap()]].concat();
    assert_eq!(said(echat(&args).output().unwrap()), "");
    let mut child =
        echat(&["mini", "speak", config, "--jobs"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let good = serde_json::json!({"id": "a", "text": "今天下雨", "emotion": "sad", "voice": "gcin-5", "style": "", "out": two});
    let bad = serde_json::json!({"id": "b", "text": "好", "emotion": "sad", "voice": "nobody", "out": two});
    child.stdin.take().unwrap().write_all(format!("{bad}\n{good}\n").as_bytes()).unwrap();
    let answers = said(child.wait_with_output().unwrap());
    let wanted = "{\"id\":\"b\",\"error\":\"no voice is called `nobody`; there are gcin-3, gcin-5, espeak-f2, espeak-m3\"}\n\
                  {\"id\":\"a\",\"error\":null}\n";
    assert_eq!(answers, wanted);
    assert!(std::fs::read(one).unwrap() == std::fs::read(two).unwrap());
}

#[test]
fn what_cannot_be_spoken_is_one_line() {
    let speak = |text: &str, emotion: &str| {
        let words = ["--id", "a", "--text", text, "--emotion", emotion, "--voice", "gcin-5", "--out", "/nowhere/x.wav"];
        complaint(echat(&[&["mini", "speak", "configs/mini/corpus.toml"][..], &words[..]].concat()).output().unwrap())
    };
    assert!(speak("hello world", "sad").contains("`hello world` is neither Chinese characters nor pinyin"));
    assert!(speak("", "sad").contains("`` is neither"));
    assert!(speak("你好", "glad").contains("unknown emotion `glad`"));
    assert!(speak("你好", "sad").contains("cannot write /nowhere/x.wav"));
}

fn error_of(config: &MiniConfig) -> String {
    let words = job("a", "你好", Emotion::Sad, &config.voice[0].name);
    Voices::new(config).and_then(|mut voices| voices.say(&words)).unwrap_err().to_string()
}

#[test]
fn missing_programs_and_recordings_name_the_package() {
    let mut config = small();
    config.recordings = "/nowhere/ogg".into();
    let wanted = "no recorded syllables in /nowhere/ogg: install them with `apt-get install gcin-voice`";
    assert_eq!(error_of(&config), wanted);
    let mut config = small();
    config.voice.rotate_left(2);
    config.espeak = "/nowhere/espeak-ng".into();
    let message = error_of(&config);
    assert!(message.starts_with("cannot run /nowhere/espeak-ng: "), "{message}");
    assert!(message.ends_with("; install it with `apt-get install espeak-ng`"), "{message}");
    let mut config = small();
    config.voice[0].recorded = Some("9".into());
    let message = error_of(&config);
    assert!(message.starts_with("speaker gcin-3 has no recording of "), "{message}");
}
