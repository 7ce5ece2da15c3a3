//! The miniature's corpus. Needs the Debian packages gcin-voice and espeak-ng, as `launch/test` installs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use echat::data::emotion::Emotion;
use echat::data::synth::config::SynthConfig;
use echat::data::synth::error::SynthError;
use echat::data::synth::plan::{Part, Split};
use echat::data::synth::script::Script;
use echat::data::synth::{Report, generate, text, tokenizer};
use echat::data::{Corpus, CorpusOptions, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/mini/corpus.toml")
}

/// The committed configuration, with less of everything.
fn small() -> SynthConfig {
    let mut config = SynthConfig::load(&committed(), &[]).unwrap();
    config.sentences = committed().with_file_name("sentences.toml");
    let counts = &mut config.counts;
    (counts.train, counts.valid, counts.test_known, counts.test_unseen) = (40, 10, 10, 20);
    (counts.pairs, counts.words, counts.text) = (6, 30, 400);
    config
}

fn make(config: &SynthConfig, out: &Path) -> Report {
    generate(config, out, &|_| ()).unwrap()
}

/// Runs `work` on so many threads.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Every file below `root`, by its path there.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn read(out: &Path, part: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join(format!("{part}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_committed_sentences_are_everyday_size_and_every_key_word_has_some() {
    let script = Script::load(&small().sentences).unwrap();
    assert_eq!(script.sentences.len(), 300);
    assert!(script.sentences.iter().all(|s| (4..=8).contains(&s.text.chars().count())));
    assert!(script.sentences.iter().all(|s| s.reading.len() == s.text.chars().count()));
    let characters: BTreeSet<char> = script.sentences.iter().flat_map(|s| s.characters()).collect();
    assert!((200..=260).contains(&characters.len()), "{}", characters.len());
    for key in script.keys() {
        assert!(script.sentences.iter().filter(|s| s.key == key).count() >= 3, "{key}");
        let responses: BTreeSet<&str> = Emotion::ALL.iter().map(|&e| script.response(key, e)).collect();
        assert_eq!(responses.len(), 5, "{key}: {responses:?}");
        assert!(responses.iter().all(|r| (6..=14).contains(&r.chars().count()) && r.contains(key)), "{responses:?}");
    }
}

#[test]
fn the_same_bits_on_one_thread_and_on_three_and_others_with_another_seed() {
    let root = tempfile::tempdir().unwrap();
    let mut config = small();
    let [one, three, other] = ["one", "three", "other"].map(|name| root.path().join(name));
    on_threads(1, || make(&config, &one));
    on_threads(3, || make(&config, &three));
    let (one, three) = (files(&one), files(&three));
    assert_eq!(one.len(), 40 + 10 + 10 + 20 + 12 + 30 + 6 + 1 + 1 + 2);
    assert!(one == three);
    assert_eq!(SynthConfig::load(&root.path().join("one/corpus.toml"), &[]).unwrap(), config);
    config.seed += 1;
    make(&config, &other);
    let other = files(&other);
    assert!(one.keys().eq(other.keys()));
    let same: Vec<_> = one.iter().filter(|(path, bytes)| other[*path] == **bytes).map(|(path, _)| path).collect();
    assert!(same.iter().all(|path| path.starts_with("tokenizer")), "{same:?}");
}

/// Repetitions count once: what noise does to a text, undone as far as can be.
fn collapsed(text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    characters.dedup();
    characters.into_iter().collect()
}

#[test]
fn no_held_out_sentence_is_in_anything_to_train_on() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("corpus");
    let mut config = small();
    config.counts.text = 20_000;
    make(&config, &out);
    let script = Script::load(&config.sentences).unwrap();
    let split = Split::new(&config, &script).unwrap();
    assert_eq!((split.known.len(), split.unseen.len()), (264, 36));
    let unseen: BTreeSet<&str> = split.unseen.iter().map(|s| s.text.as_str()).collect();
    for part in ["train", "valid", "test_known", "words", "text"] {
        for line in read(&out, part) {
            let said = line["text"].as_str().unwrap();
            assert!(!unseen.iter().any(|sentence| said.contains(sentence)), "{part}: {said}");
        }
    }
    assert!(read(&out, "test_unseen").iter().all(|line| unseen.contains(line["text"].as_str().unwrap())));
    for line in read(&out, "text") {
        let context = line["context"].as_str().unwrap();
        let clean: String = context.chars().filter(|c| !config.text.fillers.contains(*c)).collect();
        assert!(!unseen.iter().any(|sentence| collapsed(&clean).contains(&collapsed(sentence))), "{context}");
    }
    let mut other = config.clone();
    other.seed += 1;
    assert_eq!(Split::new(&other, &script).unwrap().unseen, split.unseen);
    let known: BTreeSet<char> = split.known.iter().flat_map(|s| s.characters()).collect();
    assert!(split.unseen.iter().all(|s| s.characters().is_subset(&known)));
}

#[test]
fn loudness_tells_nothing_and_the_rest_tells_the_emotion() {
    let root = tempfile::tempdir().unwrap();
    let mut config = small();
    config.counts.test_known = 100;
    let report = make(&config, &root.path().join("corpus"));
    let sounds: BTreeMap<&str, _> = report.sounds.iter().map(|(e, s)| (e.name(), *s)).collect();
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
fn manifests_hold_what_was_asked_for_and_describe_their_recordings() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("corpus");
    let config = small();
    let report = make(&config, &out);
    let script = Script::load(&config.sentences).unwrap();
    let counts: Vec<(&str, usize)> = report.parts.iter().map(|(part, e)| (part.name(), e.len())).collect();
    let wanted = [("train", 40), ("valid", 10), ("test_known", 10), ("test_unseen", 20), ("pairs", 12), ("words", 30)];
    assert_eq!((counts.as_slice(), report.text), (wanted.as_slice(), 400));
    let mut ids = BTreeSet::new();
    for part in Part::ALL {
        for line in read(&out, part.name()) {
            assert!(ids.insert(line["id"].as_str().unwrap().to_string()));
            let mut wav = hound::WavReader::open(out.join(line["audio_filepath"].as_str().unwrap())).unwrap();
            assert_eq!((wav.spec().sample_rate, wav.spec().channels, wav.spec().bits_per_sample), (16_000, 1, 16));
            assert_eq!(line["duration"].as_f64().unwrap(), f64::from(wav.duration()) / 16_000.0);
            let peak = wav.samples::<i16>().map(|x| x.unwrap().unsigned_abs()).max().unwrap();
            assert!(peak < i16::MAX as u16, "{line}: cut at full scale");
            let emotion: Emotion = line["emotion"].as_str().unwrap().parse().unwrap();
            let said = line["text"].as_str().unwrap();
            let wanted = script.sentences.iter().find(|s| s.text == said).map(|s| script.response(&s.key, emotion));
            assert_eq!(line["response"].as_str(), wanted.filter(|_| part != Part::Words));
        }
    }
    for pair in read(&out, "pairs").chunks(2) {
        let [a, b] = pair else { panic!("an odd line") };
        assert_eq!((&a["text"], &a["speaker"]), (&b["text"], &b["speaker"]));
        assert_ne!(a["emotion"], b["emotion"]);
        assert_ne!(a["response"], b["response"]);
    }
    for emotion in Emotion::ALL {
        assert_eq!(read(&out, "test_known").iter().filter(|l| l["emotion"] == emotion.name()).count(), 2);
    }
}

#[test]
fn the_trainer_reads_every_manifest() {
    let root = tempfile::tempdir().unwrap();
    make(&small(), root.path());
    let open = |name: &str, target: Target| {
        let options = CorpusOptions { target, min_seconds: 0.1, max_seconds: 30.0, max_bad_share: 0.0, verify: true };
        Corpus::open(&[root.path().join(name)], &options).unwrap()
    };
    for (name, size) in [("train.jsonl", 40), ("test_unseen.jsonl", 20), ("pairs.jsonl", 12)] {
        let corpus = open(name, Target::Response);
        assert_eq!(corpus.len(), size);
        let line = &read(root.path(), name.strip_suffix(".jsonl").unwrap())[1];
        let utterance = corpus.get(1).unwrap();
        assert_eq!(utterance.response, line["response"].as_str());
        assert_eq!(utterance.audio.len() as f64 / 16_000.0, line["duration"].as_f64().unwrap());
    }
    assert_eq!(open("words.jsonl", Target::Text).len(), 30);
    let text = open("text.jsonl", Target::Text);
    assert_eq!(text.len(), 400);
    assert!(text.get(0).unwrap().is_text_only() && text.get(0).unwrap().context.is_some());
}

#[test]
fn the_command_prints_what_it_made_and_refuses_to_do_it_again() {
    let root = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_echat"));
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        command.arg("synth").arg("configs/mini/corpus.toml").arg(root.path().join("corpus")).args(["--show", "1"]);
        for part in ["train", "valid", "test_known", "test_unseen", "pairs", "words", "text"] {
            command.arg("--set").arg(format!("counts.{part}=5"));
        }
        command.output().unwrap()
    };
    let first = run();
    let said = String::from_utf8(first.stdout).unwrap();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    for wanted in
        ["train-00000", "pairs-00000-a", "264 known sentences, 36 held out; 5 lines of text", "fearful", "gcin-5: "]
    {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let second = run();
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(error.lines().count() == 1 && error.contains("is not empty: name a new directory"), "{error}");
}

#[test]
fn every_context_can_be_read() {
    let config = small();
    let script = Script::load(&config.sentences).unwrap();
    let split = Split::new(&config, &script).unwrap();
    let mut responses = 0;
    for line in text::lines(&config, &script, &split) {
        let (context, target) = match line.context.strip_suffix(&config.text.respond_prompt) {
            Some(context) => {
                responses += 1;
                let emotion = Emotion::ALL.into_iter().find(|e| context.starts_with(e.name())).unwrap();
                let key = script.keys().find(|key| line.text == script.response(key, emotion)).unwrap();
                (context, key)
            }
            None => (line.context.strip_suffix(&config.text.transcribe_prompt).unwrap(), line.text.as_str()),
        };
        let mut rest = context.chars();
        assert!(target.chars().all(|wanted| rest.any(|c| c == wanted)), "{line:?}");
    }
    assert!((120..=200).contains(&responses), "{responses}");
}

#[test]
fn the_tokenizer_knows_every_character_and_gives_back_what_it_read() {
    let root = tempfile::tempdir().unwrap();
    let config = small();
    let script = Script::load(&config.sentences).unwrap();
    let size = tokenizer::write(root.path(), &config, &script).unwrap();
    let tokenizer = tokenizers::Tokenizer::from_file(root.path().join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), size);
    assert!((300..=500).contains(&size), "{size}");
    let encode = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    for (id, token) in tokenizer::SPECIAL.iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
    }
    assert_eq!(encode(&config.text.transcribe_prompt).len(), 4);
    assert!(encode(&config.text.respond_prompt).len() <= 17);
    assert_eq!(encode("cheerful我们").len(), 3);
    let split = Split::new(&config, &script).unwrap();
    let lines = text::lines(&config, &script, &split).into_iter().flat_map(|line| [line.context, line.text]);
    let sentences = script.sentences.iter().map(|s| s.text.clone());
    for text in lines.chain(sentences) {
        let ids = encode(&text);
        assert!(!ids.contains(&0), "{text}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    assert_eq!(encode("我😀\n们"), [encode("我")[0], 0, 0, encode("们")[0]]);
}

fn error_of(config: &SynthConfig) -> String {
    let root = tempfile::tempdir().unwrap();
    generate(config, &root.path().join("corpus"), &|_| ()).unwrap_err().to_string()
}

#[test]
fn missing_programs_and_recordings_name_the_package() {
    let mut config = small();
    config.recordings = "/nowhere/ogg".into();
    let wanted = "no recorded syllables in /nowhere/ogg: install them with `apt-get install gcin-voice`";
    assert_eq!(error_of(&config), wanted);
    let mut config = small();
    config.espeak = "/nowhere/espeak-ng".into();
    let message = error_of(&config);
    assert!(message.starts_with("cannot run /nowhere/espeak-ng: "), "{message}");
    assert!(message.ends_with("; install it with `apt-get install espeak-ng`"), "{message}");
    let mut config = small();
    config.voice[0].recorded = Some("9".into());
    let message = error_of(&config);
    assert!(message.starts_with("speaker gcin-3 has no recording of "), "{message}");
}

#[test]
fn an_output_directory_with_something_in_it_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("mine"), "x").unwrap();
    let error = generate(&small(), root.path(), &|_| ()).unwrap_err();
    assert!(matches!(error, SynthError::NotEmpty(_)), "{error}");
    assert_eq!(files(root.path()).len(), 1);
}

/// Loads the committed files with `old` replaced by `new` in one of them.
fn with(file: &str, old: &str, new: &str) -> Result<(), String> {
    let root = tempfile::tempdir().unwrap();
    for name in ["corpus.toml", "sentences.toml"] {
        let text = std::fs::read_to_string(committed().with_file_name(name)).unwrap();
        let changed = if name == file { text.replacen(old, new, 1) } else { text.clone() };
        assert!(name != file || changed != text, "{old} is not in {file}");
        std::fs::write(root.path().join(name), changed).unwrap();
    }
    let config = SynthConfig::load(&root.path().join("corpus.toml"), &[]).map_err(|e| e.to_string())?;
    let script = Script::load(&root.path().join("sentences.toml")).map_err(|e| e.to_string())?;
    Split::new(&config, &script).map(drop).map_err(|e| e.to_string())
}

const FIRST: &str = "\"妈妈明天来看我\"";

#[test]
fn mistakes_in_the_files_are_named() {
    let cases = [
        ("corpus.toml", "seed = 1", "sead = 1", "corpus.toml:6: unknown key `sead`; did you mean `seed`?"),
        ("corpus.toml", "train = 2000", "train = -1", "`counts.train` expects an integer of at least 0"),
        ("corpus.toml", "margin_ms = [60, 40]", "margin_ms = [60]", "margin_ms"),
        ("corpus.toml", "level = 0.07", "level = 0.9", "`level`: 0.9 must lie between"),
        ("corpus.toml", "recorded = \"3\"", "pitch = [1, 1]", "`voice[0]`: give either"),
        ("corpus.toml", "repeat = [1, 4]", "repeat = [0, 4]", "`text.repeat`: must be"),
        ("corpus.toml", "unseen_sentences = 36", "unseen_sentences = 90", "of 90 sentences can be held out"),
        ("corpus.toml", "unseen_sentences = 36", "unseen_sentences = 0", "need held-out sentences"),
        ("corpus.toml", "speed = [1.00, 0.04]", "speed = [0.1, 0.0]", "`emotion.neutral.speed`: must lie"),
        ("sentences.toml", FIRST, "\"我明天来看你\"", "`我明天来看你` contains no key word"),
        ("sentences.toml", FIRST, "\"妈妈来看爸爸\"", "contains several key words"),
        ("sentences.toml", FIRST, "\"火车明天来\"", "key word 火车 of another topic"),
        ("sentences.toml", FIRST, "\"妈妈x来\"", "no reading for x"),
        ("sentences.toml", FIRST, "\"妈妈来(lay2)\"", "`lay2` is no pinyin syllable"),
        ("sentences.toml", FIRST, "\"妈妈在家里等我\"", "`妈妈在家里等我` is given twice"),
        ("sentences.toml", "匙shi5", "匙shish", "`readings`: `匙shish` is not"),
        ("sentences.toml", "好的，替我问候{}", "好的", "`topic[0].neutral`: `好的` must contain {} once"),
    ];
    for (file, old, new, wanted) in cases {
        let message = with(file, old, new).unwrap_err();
        assert!(message.contains(wanted), "{new}: {message}");
        let place = message.split_once(&format!("{file}:")).map(|(_, rest)| rest.split(':').next().unwrap_or_default());
        assert!(wanted.ends_with("held out") || place.is_some_and(|line| line.parse::<usize>().is_ok()), "{message}");
    }
}
