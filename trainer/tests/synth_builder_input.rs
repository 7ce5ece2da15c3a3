//! The corpus builder: wrong texts, keys, configurations, output directories, each named in one line, before anything is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/builder.rs"]
mod builder;
#[path = "common/server.rs"]
mod server;

use builder::{Said, Site};
use server::Server;

/// The line of error about `texts` in a file of this name.
fn texts_error(name: &str, texts: impl AsRef<[u8]>) -> String {
    let server = Server::good();
    let site = Site::new(&server.url, 1);
    std::fs::write(site.path(name), texts).unwrap();
    let said = site.run("out", &["--set", &format!("texts.files=['{name}']")]);
    assert!(server.asked().is_empty() && !site.path("out").exists());
    said.error().strip_prefix("error: ./").unwrap().to_string()
}

#[test]
fn unusable_texts_are_named_with_file_and_line() {
    let tsv = |lines: &str| texts_error("t.tsv", format!("id\ttext\temotion\n{lines}"));
    assert_eq!(tsv(""), "t.tsv: holds no texts");
    assert_eq!(texts_error("t.tsv", ""), "t.tsv: holds no texts");
    assert_eq!(texts_error("t.jsonl", "\n \n"), "t.jsonl: holds no texts");
    assert_eq!(tsv("a\t你好\tsad\nb\t  \tsad\n"), "t.tsv:3: the text is empty");
    let emotions = "it must be one of cheerful, fearful, angry, sad, neutral, or be translated in `texts.emotions`";
    assert_eq!(tsv("a\t你好\tsad\n\nb\t你好\tglad\n"), format!("t.tsv:4: unknown emotion `glad`; {emotions}"));
    assert_eq!(
        tsv("a\t你好\tsad\na\t再见\tsad\n"),
        "t.tsv:3: the id `a` was used at ./t.tsv:2 already; ids must be unique"
    );
    assert_eq!(tsv("a\t你好\n"), "t.tsv:2: 2 fields, but the header has 3");
    assert_eq!(tsv("a\t你\u{7}好\tsad\n"), "t.tsv:2: the text holds the control character '\\u{7}'");
    let file_name = "cannot be a file name: use at most 200 bytes, no `/`, no control characters, no dot in front";
    for id in ["../a", ".a", &"a".repeat(201)] {
        assert_eq!(tsv(&format!("{id}\t你好\tsad\n")), format!("t.tsv:2: the id `{id}` {file_name}"));
    }
    let wanted = "t.tsv: has no column `emotion`; it has text, label: correct the header, or `texts.columns`";
    assert_eq!(texts_error("t.tsv", "text\tlabel\n你好\tsad\n"), wanted);
    assert_eq!(texts_error("t.jsonl", "{\"text\": \"你好\"}\n"), "t.jsonl:1: `emotion` is missing or no string");
    assert_eq!(
        texts_error("t.jsonl", "{\"text\": [1], \"emotion\": \"sad\"}\n"),
        "t.jsonl:1: `text` is missing or no string"
    );
    assert!(texts_error("t.jsonl", "[1, 2]\n").starts_with("t.jsonl:1: not a JSON object: "));
    assert!(texts_error("t.jsonl", "{\"text\":\n").starts_with("t.jsonl:1: not a JSON object: "));
    assert_eq!(texts_error("t.tsv", b"text\temotion\n\xff\tsad\n"), "t.tsv: not UTF-8: save the file as UTF-8");
    assert_eq!(
        texts_error("t.csv", "text,emotion\n"),
        "t.csv: texts are .tsv files with a header line, or .jsonl files"
    );
}

#[test]
fn a_missing_file_of_texts_is_named() {
    let site = Site::new("http://127.0.0.1:9", 1);
    let said = site.run("out", &["--set", "texts.files=['none.tsv']"]);
    assert!(said.error().starts_with("error: cannot read ./none.tsv: No such file"), "{said:?}");
}

#[test]
fn byte_order_marks_carriage_returns_and_empty_lines_are_no_texts() {
    let server = Server::good();
    let site = Site::new(&server.url, 1);
    let lines = (0..10).map(|i| format!("第{i}句话 \tsad\r\n\r\n")).collect::<String>();
    site.write("texts.tsv", &format!("\u{feff}text\temotion\r\n{lines}"));
    site.run("out", &[]).good();
    let line = &site.lines("out", "train.jsonl")[0];
    let (id, text) = (line["id"].as_str().unwrap(), line["text"].as_str().unwrap());
    assert!(text.starts_with('第') && text.ends_with('话') && id.starts_with("texts-"), "{line}");
}

#[test]
fn keys_are_found_or_missed_without_being_shown() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    let run = |variable: &str, value: Option<&str>, sets: &[&str]| {
        let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let mut command = site.command("out", &args);
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
        Said::new(command.output().unwrap())
    };
    let missing = format!(
        "error: no key for {}/v1/chat/completions: set the environment variable OPENAI_API_KEY, or name a file in `chat.key_file`",
        server.url
    );
    assert_eq!(run("OPENAI_API_KEY", None, &[]).error(), missing);
    assert_eq!(run("OPENAI_API_KEY", Some(" "), &[]).error(), missing);
    let bad = run("OPENAI_API_KEY", Some("sk-two words"), &[]);
    let wanted = "error: the key in the environment variable OPENAI_API_KEY is empty or holds spaces or other characters no key \
        has: write the key alone";
    assert_eq!(bad.error(), wanted);
    let unreadable = run("X", None, &["chat.key_file='nowhere/key'"]);
    assert!(
        unreadable.error().starts_with("error: cannot read the key file nowhere/key: No such file"),
        "{unreadable:?}"
    );
    site.write("empty.key", "\n");
    let empty = run("X", None, &["chat.key_file='empty.key'"]);
    assert!(empty.error().starts_with("error: the key in empty.key is empty"), "{empty:?}");
    assert!(server.asked().is_empty());
    // Only the key for speech is missing: the responses are there when it is set.
    let speech = run("AZURE_SPEECH_KEY", None, &[]);
    assert!(speech.error().contains("AZURE_SPEECH_KEY, or name a file in `speech.azure.key_file`"), "{speech:?}");
    site.write("good.key", "sk-from-file\n");
    run("OPENAI_API_KEY", None, &["chat.key_file='good.key'"]).good();
    let keyless = Site::new(&server.url, 10);
    keyless.run("out", &["--set", "chat.key_env=''", "--set", "speech.azure.key_env=''"]).good();
    assert!(!server.asked().last().unwrap().headers.contains_key("ocp-apim-subscription-key"));
}

#[test]
fn a_directory_that_is_nobody_s_or_in_use_is_left_alone() {
    let server = Server::start(std::time::Duration::from_millis(50), |_, _, _| server::Act::Good);
    let site = Site::new(&server.url, 60);
    std::fs::create_dir(site.path("mine")).unwrap();
    site.write("mine/novel.txt", "x");
    let said = site.run("mine", &[]);
    assert_eq!(said.error(), "error: mine is not empty and no run of `echat synth`: name a new directory");
    assert_eq!(builder::files(&site.path("mine")).len(), 1);
    assert!(server.asked().is_empty());
    let mut first = site.command("out", &["--set", "chat.concurrency=1"]).spawn().unwrap();
    server.wait_for(1);
    let second = site.run("out", &["--set", "chat.concurrency=1"]);
    assert_eq!(second.error(), "error: another `echat synth` is writing to out: wait for it, or stop it");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_damaged_journal_is_named() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    std::fs::remove_file(site.path("out/stats.json")).unwrap();
    let journal = std::fs::read_to_string(site.path("out/journal.jsonl")).unwrap();
    site.write("out/journal.jsonl", &journal.replacen("\"kind\"", "\"kin\"", 3));
    let said = site.run("out", &[]);
    assert!(said.error().starts_with("error: out/journal.jsonl:1: not a line of the journal ("), "{said:?}");
}

#[test]
fn configurations_that_make_no_sense_name_the_key() {
    let site = Site::new("http://127.0.0.1:9", 20);
    let cases: [(&[&str], &str); 22] = [
        (&["texts.files=[]"], "`texts.files`: name the files of the texts, here or by part in `texts.parts`"),
        (&["texts.parts={train=['texts.tsv']}"], "`texts.parts`: give either `files` or `parts`"),
        (
            &["texts.emotions={joy='glad'}"],
            "`texts.emotions.joy`: `glad` is none of cheerful, fearful, angry, sad, neutral",
        ),
        (&["texts.colums.text='a'"], "unknown key `texts.colums`; did you mean `texts.columns`?"),
        (&["chat.base_url='api.openai.com'"], "`chat.base_url`: `api.openai.com` must begin with https:// or http://"),
        (&["chat.user='Answer.'"], "`chat.user`: must contain {text}"),
        (&["chat.requests_per_minute=-1"], "`chat.requests_per_minute`: must be from 0 to 1000000"),
        (&["chat.concurrency=0"], "`chat.concurrency`: must be from 1 to 256"),
        (&["speech.timeout_seconds=0"], "`speech.timeout_seconds`: must be above 0"),
        (&["speech.max_seconds_per_character=0.01"], "`speech.max_seconds_per_character`: must be above"),
        (&["speech.azure.endpoint=''"], "`speech.azure.endpoint`: `` must begin with https:// or http://"),
        (&["speech.azure.voices=[]"], "`speech.azure.voices`: name at least one"),
        (
            &["speech.azure.output_format='raw-16khz-16bit-mono-pcm'"],
            "`speech.azure.output_format`: must be `riff-…-pcm`",
        ),
        (&["speech.azure.styles={happy='x'}"], "`speech.azure.styles.happy`: the emotions are cheerful, fearful"),
        (&["speech.backend='command'"], "`speech.command.run`: name a program and its arguments"),
        (&["split.shares={valid=0.1}"], "`split`: give either `counts` or `shares`"),
        (&["split.counts.train=1"], "`split.rest`: `train` gets what is left and has no size of its own"),
        (&["split.rest='wav'"], "`split`: `wav` cannot be the name of a part"),
        (&["shards.shard_mib=0"], "`shards.shard_mib`: must be from 1 to 65536"),
        (&["prices.response_tokens=-1"], "`prices`: must not be negative"),
        (&["limits.tries=0"], "`limits.tries`: must be at least 1"),
        (&["limits.max_bad_share=1.5"], "`limits.max_bad_share`: must be from 0 to 1"),
    ];
    for (sets, wanted) in cases {
        let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let said = site.run("out", &args);
        assert!(said.error().contains(wanted), "{sets:?}: {said:?}");
    }
    assert!(!site.path("out").exists());
}

#[test]
fn parts_that_the_texts_cannot_fill_are_an_error_before_anything_is_asked() {
    let server = Server::good();
    let site = Site::new(&server.url, 8);
    let rest = site.run("out", &[]);
    assert_eq!(rest.error(), "error: the part `train` would have 0 of 8 texts: change [split] or give more texts");
    let large = site.run("out", &["--set", "split.counts.test=9"]);
    assert_eq!(large.error(), "error: the part `test` would have 9 of 8 texts: change [split] or give more texts");
    assert!(server.asked().is_empty());
}
