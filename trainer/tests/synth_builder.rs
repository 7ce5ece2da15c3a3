//! The corpus builder against a server that behaves: what is asked, what comes out, what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/builder.rs"]
mod builder;
#[path = "common/server.rs"]
mod server;

use builder::{CHAT_KEY, EMOTIONS, SPEECH_KEY, Site, corpus};
use echat::data::{Corpus, CorpusOptions, Target};
use server::{Api, Server, tone};
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn texts_become_a_corpus_with_responses_speech_split_shards_and_statistics() {
    let server = Server::good();
    let site = Site::new(&server.url, 20);
    let said = site.run("out", &[]);
    assert!(
        said.good().contains("train          sum              12") && said.good().ends_with("out is finished\n"),
        "{said:?}"
    );
    assert!(said.stdout.contains("paid for 2000 + 200 tokens and "), "{said:?}");
    let mut seen = BTreeSet::new();
    for (part, size) in [("train", 12), ("valid", 3), ("test", 5)] {
        let lines = site.lines("out", &format!("{part}.jsonl"));
        assert_eq!(lines.len(), size);
        let options = CorpusOptions {
            target: Target::Response,
            min_seconds: 0.1,
            max_seconds: 30.0,
            max_bad_share: 0.0,
            verify: true,
        };
        let shards = Corpus::open(&[site.path("out").join(part)], &options).unwrap();
        for (index, line) in lines.iter().enumerate() {
            let text = line["text"].as_str().unwrap();
            assert!(seen.insert(line["id"].as_str().unwrap().to_string()));
            assert_eq!(line["response"], format!("我听见了：{text}"));
            let utterance = shards.get(index).unwrap();
            assert_eq!((utterance.id, utterance.text), (line["id"].as_str().unwrap(), text));
            assert_eq!((utterance.response, utterance.speaker), (line["response"].as_str(), line["speaker"].as_str()));
            assert_eq!(utterance.audio.as_ref(), tone(text));
            assert_eq!(line["duration"].as_f64().unwrap(), utterance.audio.len() as f64 / 16_000.0);
        }
    }
    assert_eq!(seen.len(), 20);
    let test = site.lines("out", "test.jsonl");
    assert_eq!(EMOTIONS.map(|emotion| test.iter().filter(|line| line["emotion"] == emotion).count()), [1; 5]);
    let stats: serde_json::Value =
        serde_json::from_slice(&std::fs::read(site.path("out/stats.json")).unwrap()).unwrap();
    assert_eq!((&stats["parts"]["train"]["total"]["entries"], &stats["rejected"]), (&12.into(), &0.into()));
    assert_eq!(stats["cost"]["responses"], 2000.0 * 0.5 / 1e3 + 200.0 * 1.5 / 1e3);
    assert!(!site.path("out/tmp").exists());
}

#[test]
fn requests_are_what_the_two_apis_want() {
    let server = Server::good();
    let site = Site::new(&server.url, 20);
    site.run("out", &["--set", "chat.temperature=0.5", "--set", "chat.max_tokens=99"]).good();
    let chats = server.asked_for(Api::Chat);
    assert_eq!(chats.len(), 20);
    for asked in &chats {
        assert_eq!(asked.headers["authorization"], format!("Bearer {CHAT_KEY}"));
        let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(
            (&body["model"], &body["temperature"], &body["max_tokens"]),
            (&"gpt-3.5-turbo".into(), &0.5.into(), &99.into())
        );
        assert_eq!((&body["messages"][0]["role"], &body["seed"]), (&"system".into(), &serde_json::Value::Null));
        let index: usize = asked.text.trim_start_matches('第').split('句').next().unwrap().parse().unwrap();
        assert_eq!(body["messages"][1]["content"], format!("Emotion: {}\nText: {}", EMOTIONS[index % 5], asked.text));
    }
    let speech = server.asked_for(Api::Speech);
    assert_eq!(speech.len(), 20);
    let mut voices = BTreeSet::new();
    for asked in &speech {
        assert_eq!(asked.headers["ocp-apim-subscription-key"], SPEECH_KEY);
        assert_eq!(asked.headers["x-microsoft-outputformat"], "riff-16khz-16bit-mono-pcm");
        assert_eq!(asked.headers["content-type"], "application/ssml+xml");
        let index: usize = asked.text.trim_start_matches('第').split('句').next().unwrap().parse().unwrap();
        let styled = format!("<mstts:express-as style=\"{}\">", EMOTIONS[index % 5]);
        assert_eq!(asked.body.contains(&styled), index % 5 != 4, "{}", asked.body);
        assert!(index % 5 != 4 || !asked.body.contains("express-as"), "{}", asked.body);
        voices.insert(asked.body.split("<voice name=\"").nth(1).unwrap().split('"').next().unwrap().to_string());
    }
    assert!(voices.len() >= 5 && voices.iter().all(|voice| voice.starts_with("zh-CN-")), "{voices:?}");
    let speakers = ["train", "valid", "test"].map(|part| site.lines("out", &format!("{part}.jsonl"))).concat();
    assert_eq!(
        speakers.iter().map(|line| line["speaker"].as_str().unwrap().to_string()).collect::<BTreeSet<_>>(),
        voices
    );
}

#[test]
fn a_finished_corpus_is_left_as_it_is() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    let (before, asked) = (builder::files(&site.path("out")), server.asked().len());
    assert_eq!(site.run("out", &[]).good(), "out is finished: nothing to do\n");
    assert_eq!(site.run("out", &["--set", "chat.concurrency=3"]).good(), "out is finished: nothing to do\n");
    assert!(builder::files(&site.path("out")) == before);
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn neither_threads_nor_order_change_the_corpus() {
    let server = Server::start(Duration::from_millis(3), |_, _, _| server::Act::Good);
    let site = Site::new(&server.url, 30);
    site.run("one", &["--set", "chat.concurrency=1", "--set", "speech.concurrency=1"]).good();
    site.run("many", &["--set", "chat.concurrency=9", "--set", "speech.concurrency=7"]).good();
    assert!(corpus(&site.path("one")) == corpus(&site.path("many")));
}

#[test]
fn concurrency_is_used_and_kept() {
    let server = Server::start(Duration::from_millis(50), |_, _, _| server::Act::Good);
    let site = Site::new(&server.url, 16);
    site.run("out", &["--set", "chat.concurrency=4", "--set", "speech.concurrency=4"]).good();
    assert_eq!(server.most(), 4);
}

#[test]
fn the_rate_is_kept() {
    let server = Server::good();
    let site = Site::new(&server.url, 15);
    // The first at once, then 10 a second.
    site.run("out", &["--set", "chat.requests_per_minute=600"]).good();
    let times: Vec<_> = server.asked_for(Api::Chat).iter().map(|asked| asked.at).collect();
    assert_eq!(times.len(), 15);
    let took = *times.last().unwrap() - times[0];
    assert!(took >= Duration::from_millis(1300), "{took:?}");
}

#[test]
fn a_dry_run_counts_and_sends_and_writes_nothing() {
    let server = Server::good();
    let site = Site::new(&server.url, 20);
    let dry = || builder::Said::new(site.command("out", &["--dry-run"]).env_remove("OPENAI_API_KEY").output().unwrap());
    let said = dry();
    for wanted in [
        "texts       20: cheerful 4, fearful 4, angry 4, sad 4, neutral 4\n",
        "parts       test 5, valid 3, train 12\n",
        "responses   0 there, 20 to ask for: about ",
        "recordings  0 there, 20 to make: ",
        "nothing was sent or written",
    ] {
        assert!(said.good().contains(wanted), "{wanted}: {said:?}");
    }
    assert!(server.asked().is_empty() && !site.path("out").exists());
    site.run("out", &[]).good();
    let (said, before) = (dry(), server.asked().len());
    assert!(
        said.good().contains("responses   20 there, 0 to ask for: about 0 tokens sent, 0 received, 0.00\n"),
        "{said:?}"
    );
    assert!(said.good().contains("recordings  20 there, 0 to make: 0 characters billed, 0.00\n"), "{said:?}");
    assert_eq!(server.asked().len(), before);
}

#[test]
fn another_question_is_refused_or_asked_alone() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    let error = site.run("out", &["--set", "chat.model='gpt-4'"]);
    let wanted = "error: out was made with another `chat.model`: name a new directory, or give --accept-changes to make anew what that changes";
    assert_eq!(error.error(), wanted);
    let error = site.run("out", &["--set", "speech.azure.styles.sad='gentle'"]);
    assert!(error.error().contains("another `speech.azure.styles.sad`"), "{error:?}");
    assert_eq!(server.asked().len(), 20);
    site.run("out", &["--accept-changes", "--set", "chat.model='gpt-4'"]).good();
    assert_eq!((server.asked_for(Api::Chat).len(), server.asked_for(Api::Speech).len()), (20, 10));
    let styled = ["--set", "chat.model='gpt-4'", "--set", "speech.azure.styles.sad='gentle'", "--accept-changes"];
    site.run("out", &styled).good();
    assert_eq!((server.asked_for(Api::Chat).len(), server.asked_for(Api::Speech).len()), (20, 12));
    site.run("fresh", &styled[..4]).good();
    let (changed, mut fresh) = (corpus(&site.path("out")), corpus(&site.path("fresh")));
    // What was paid differs; the corpus does not.
    let stats = std::path::Path::new("stats.json");
    fresh.insert(stats.into(), changed[stats].clone());
    assert!(changed == fresh);
}

#[test]
fn another_split_asks_nothing_and_leaves_nothing_of_the_former_one() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    let split = ["--set", "split.rest='most'", "--set", "split.seed=9"];
    assert!(site.run("out", &split).error().contains("another `parts`"));
    assert!(site.path("out/train/index.json").exists());
    let renamed = [&split[..], &["--accept-changes"]].concat();
    site.run("out", &renamed).good();
    assert_eq!(server.asked().len(), 20);
    assert!(!site.path("out/train").exists() && !site.path("out/train.jsonl").exists());
    site.run("fresh", &split).good();
    assert!(corpus(&site.path("out")) == corpus(&site.path("fresh")));
}

#[test]
fn texts_with_responses_and_voices_ask_nobody_else() {
    let server = Server::good();
    let site = Site::new(&server.url, 0);
    let line = |id: &str, rest: &str| format!("{{\"id\": \"{id}\", \"text\": \"你好\", \"label\": \"joy\"{rest}}}\r\n");
    let texts = [
        line("a", ", \"response\": \"好\", \"voice\": \"zh-CN-YunxiNeural\""),
        line("b", ""),
        line("c", ", \"spoken\": \"ni3 hao3\""),
    ];
    site.write("texts.jsonl", &format!("\u{feff}{}\r\n", texts.concat()));
    let sets = [
        "texts.files=['texts.jsonl']",
        "texts.columns.emotion='label'",
        "texts.emotions={joy='cheerful'}",
        "split.counts={test=1}",
    ];
    let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    site.run("out", &[&args[..], &["--set", "split.counts={test=1,valid=1}"]].concat()).good();
    assert_eq!(server.asked_for(Api::Chat).len(), 2);
    let mut spoken: Vec<String> = server.asked_for(Api::Speech).into_iter().map(|asked| asked.text).collect();
    spoken.sort();
    assert_eq!(spoken, ["ni3 hao3", "你好", "你好"]);
    let all = ["train", "valid", "test"].map(|part| site.lines("out", &format!("{part}.jsonl"))).concat();
    let a = all.iter().find(|line| line["id"] == "a").unwrap();
    assert_eq!(
        (&a["response"], &a["speaker"], &a["emotion"]),
        (&"好".into(), &"zh-CN-YunxiNeural".into(), &"cheerful".into())
    );
    assert!(all.iter().all(|line| line["text"] == "你好"));
}
