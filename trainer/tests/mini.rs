//! The miniature's texts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/mini.rs"]
mod mini;

use echat::data::emotion::Emotion;
use echat::data::mini::config::MiniConfig;
use echat::data::mini::error::MiniError;
use echat::data::mini::plan::{Part, Split};
use echat::data::mini::script::Script;
use echat::data::mini::{text, tokenizer, write_texts};
use mini::{committed, complaint, echat, files, make, read, said, small};
use std::collections::BTreeSet;

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
fn the_same_texts_from_the_same_file_and_others_with_another_seed() {
    let root = tempfile::tempdir().unwrap();
    let mut config = small();
    let [one, again, other] = ["one", "again", "other"].map(|name| root.path().join(name));
    make(&config, &one);
    make(&config, &again);
    let (one, again) = (files(&one), files(&again));
    assert_eq!(one.len(), 6 + 1 + 1 + 2);
    assert!(one == again);
    assert_eq!(MiniConfig::load(&root.path().join("one/corpus.toml"), &[]).unwrap(), config);
    config.seed += 1;
    make(&config, &other);
    let other = files(&other);
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
fn texts_hold_what_was_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let (config, out) = (small(), root.path());
    let report = make(&config, out);
    let script = Script::load(&config.sentences).unwrap();
    let counts: Vec<(&str, usize)> = report.parts.iter().map(|(part, e)| (part.name(), e.len())).collect();
    let wanted = [("train", 40), ("valid", 10), ("test_known", 10), ("test_unseen", 20), ("pairs", 12), ("words", 30)];
    assert_eq!((counts.as_slice(), report.text), (wanted.as_slice(), 400));
    let mut ids = BTreeSet::new();
    for part in Part::ALL {
        for line in read(out, part.name()) {
            assert!(ids.insert(line["id"].as_str().unwrap().to_string()));
            let emotion: Emotion = line["emotion"].as_str().unwrap().parse().unwrap();
            let text = line["text"].as_str().unwrap();
            assert_eq!(line["spoken"].as_str().unwrap().split(' ').count(), text.chars().count());
            let wanted = script.sentences.iter().find(|s| s.text == text).map(|s| script.response(&s.key, emotion));
            assert_eq!(line["response"].as_str(), wanted.filter(|_| part != Part::Words));
        }
    }
    for pair in read(out, "pairs").chunks(2) {
        let [a, b] = pair else { panic!("an odd line") };
        assert_eq!((&a["text"], &a["voice"]), (&b["text"], &b["voice"]));
        assert_ne!(a["emotion"], b["emotion"]);
        assert_ne!(a["response"], b["response"]);
    }
    for emotion in Emotion::ALL {
        assert_eq!(read(out, "test_known").iter().filter(|l| l["emotion"] == emotion.name()).count(), 2);
    }
}

#[test]
fn the_command_prints_what_it_wrote_and_refuses_to_do_it_again() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("texts");
    let run = || {
        let mut command = echat(&["mini", "texts", "configs/mini/corpus.toml", out.to_str().unwrap(), "--show", "1"]);
        for part in ["train", "valid", "test_known", "test_unseen", "pairs", "words", "text"] {
            command.arg("--set").arg(format!("counts.{part}=5"));
        }
        command.output().unwrap()
    };
    let first = said(run());
    for wanted in ["train-00000", "pairs-00000-a", "264 known sentences, 36 held out; 5 lines of text"] {
        assert!(first.contains(wanted), "{wanted}: {first}");
    }
    let error = complaint(run());
    assert!(error.contains("is not empty: name a new directory"), "{error}");
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

#[test]
fn an_output_directory_with_something_in_it_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("mine"), "x").unwrap();
    let error = write_texts(&small(), root.path()).unwrap_err();
    assert!(matches!(error, MiniError::NotEmpty(_)), "{error}");
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
    let config = MiniConfig::load(&root.path().join("corpus.toml"), &[]).map_err(|e| e.to_string())?;
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
