//! The corpus builder against a server that misbehaves, and against a kill.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/builder.rs"]
mod builder;
#[path = "common/server.rs"]
mod server;

use builder::{CHAT_KEY, SPEECH_KEY, Site, corpus};
use server::{Act, Api, Server, completion, tone, wav};
use std::collections::BTreeMap;
use std::time::Duration;

fn status(status: u16, retry_after: &'static str, message: &str) -> Act {
    Act::Status(status, retry_after, format!("{{\"error\": {{\"message\": \"{message}\", \"code\": null}}}}"))
}

fn json(body: &str) -> Act {
    Act::Other("application/json", body.as_bytes().to_vec())
}

fn audio(bytes: Vec<u8>) -> Act {
    Act::Other("audio/x-wav", bytes)
}

/// Everything that may go better next time, one for each text.
fn passing(api: Api, text: &str, index: usize) -> Act {
    let samples = tone(text);
    let common = [
        status(500, "", "oops"),
        status(503, "", "full"),
        status(408, "", "late"),
        status(429, "", "many"),
        Act::Slow(Duration::from_millis(3000)),
        Act::Truncated,
        Act::Other("text/html", b"<html>502 Bad Gateway</html>".to_vec()),
    ];
    let own = match api {
        Api::Chat => vec![
            json("{\"choices\": [{\"message\""),
            json("{\"choices\": []}"),
            json(&completion("", "stop")),
            json(&completion("x", "tool_calls")),
        ],
        Api::Speech => vec![
            json("{\"error\": \"no\"}"),
            audio(b"RIFF????WAVEnothing of the kind".to_vec()),
            audio(Vec::new()),
            audio(wav(&[])),
            audio(wav(&samples)[..1000].to_vec()),
            audio(wav(&samples[..400])),
            audio(wav(&vec![0; samples.len()])),
            audio(wav(&samples.repeat(20))),
        ],
    };
    let all = [&common[..], &own].concat();
    all[index % all.len()].clone()
}

fn index_of(text: &str) -> usize {
    text.trim_start_matches('第').split('句').next().unwrap().parse().unwrap()
}

#[test]
fn whatever_goes_wrong_once_changes_nothing() {
    let bad = Server::start(Duration::ZERO, |api, text, tries| match tries {
        0 => passing(api, text, index_of(text)),
        _ => Act::Good,
    });
    let good = Server::good();
    let site = Site::new(&bad.url, 30);
    site.run("bad", &[]).good();
    assert_eq!((bad.asked_for(Api::Chat).len(), bad.asked_for(Api::Speech).len()), (60, 60));
    let urls = [format!("chat.base_url='{}/v1'", good.url), format!("speech.azure.endpoint='{}'", good.url)];
    site.run("good", &["--set", &urls[0], "--set", &urls[1]]).good();
    assert_eq!(good.asked().len(), 60);
    assert!(corpus(&site.path("bad")) == corpus(&site.path("good")));
    assert!(site.lines("bad", "rejects.jsonl").is_empty());
}

#[test]
fn retry_after_is_obeyed_by_all_requests() {
    let server = Server::start(Duration::ZERO, |api, text, tries| match (api, index_of(text), tries) {
        (Api::Chat, 0, 0) => status(429, "2", "slow down"),
        _ => Act::Good,
    });
    let site = Site::new(&server.url, 10);
    site.run("out", &["--set", "chat.concurrency=1"]).good();
    let asked = server.asked_for(Api::Chat);
    assert_eq!((asked.len(), asked[0].text == asked[1].text), (11, true));
    let waited = asked[1].at - asked[0].at;
    assert!(waited >= Duration::from_millis(1990) && waited < Duration::from_secs(20), "{waited:?}");
    let server = Server::start(Duration::from_millis(100), |api, text, tries| match (api, index_of(text), tries) {
        (Api::Chat, 0, 0) => status(429, "1", "slow down"),
        _ => Act::Good,
    });
    let site = Site::new(&server.url, 20);
    site.run("out", &["--set", "chat.concurrency=2"]).good();
    let asked = server.asked_for(Api::Chat);
    // One more may have been on its way; then nobody asks for a second.
    let quiet = asked.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap();
    assert!(quiet >= Duration::from_millis(800), "{quiet:?}");
}

#[test]
fn tries_end_and_what_failed_is_listed_or_too_much() {
    let server = Server::start(Duration::ZERO, |api, text, _| match (api, index_of(text)) {
        (Api::Chat, 3) => status(500, "", "always"),
        (Api::Speech, 4) => audio(b"noise".to_vec()),
        _ => Act::Good,
    });
    let site = Site::new(&server.url, 20);
    let limits = ["--set", "limits.tries=3", "--set", "limits.max_bad_share=0.1"];
    let said = site.run("out", &limits);
    assert!(said.good().contains("2 texts left out, listed in out/rejects.jsonl"), "{said:?}");
    let tries = |api, index| server.asked_for(api).iter().filter(|asked| index_of(&asked.text) == index).count();
    assert_eq!((tries(Api::Chat, 3), tries(Api::Speech, 3), tries(Api::Speech, 4)), (3, 0, 3));
    let rejects = site.lines("out", "rejects.jsonl");
    assert_eq!((&rejects[0]["id"], &rejects[0]["source"]), (&"q03".into(), &"./texts.tsv:5".into()));
    assert_eq!(rejects[0]["reason"], "the server answered 500: always (try 3 of 3)");
    assert_eq!(rejects[1]["id"], "q04");
    let reason = rejects[1]["reason"].as_str().unwrap();
    assert!(reason.starts_with("what it gave is no recording: not decodable") && !reason.contains("tmp"), "{reason}");
    let error = site.run("strict", &["--set", "limits.tries=2", "--set", "limits.max_bad_share=0.0"]);
    let wanted = "error: 1 of 20 texts have no response, more than the allowed share of 0; the first is ./texts.tsv:5: the server \
        answered 500: always (try 2 of 2); what was made is kept: mend the cause or raise `limits.max_bad_share`, then run again";
    assert_eq!(error.error(), wanted);
    assert!(!site.path("strict/stats.json").exists());
}

#[test]
fn a_refusal_is_not_asked_again_even_by_another_run() {
    let refusals =
        [status(400, "", "bad prompt"), json(&completion("cut", "length")), json(&completion("", "content_filter"))];
    let server = Server::start(Duration::ZERO, move |api, text, _| match (api, index_of(text)) {
        (Api::Chat, index @ 0..=2) => refusals[index].clone(),
        (Api::Speech, 3) => status(302, "", "elsewhere"),
        _ => Act::Good,
    });
    let site = Site::new(&server.url, 20);
    let error = site.run("out", &[]);
    assert!(error.error().contains(" of 20 texts have no response"), "{error:?}");
    site.run("out", &["--set", "limits.max_bad_share=0.5"]).good();
    for index in 0..20 {
        let tries = server.asked_for(Api::Chat).iter().filter(|asked| index_of(&asked.text) == index).count();
        assert_eq!(tries, 1, "{index}");
    }
    let reasons: Vec<String> =
        site.lines("out", "rejects.jsonl").iter().map(|line| line["reason"].as_str().unwrap().to_string()).collect();
    let wanted = [
        "the server answered 400: bad prompt",
        "the response was cut off: raise `chat.max_tokens`",
        "the server's content filter stopped the response",
        "the server answered 302: elsewhere",
    ];
    assert_eq!(reasons, wanted);
}

#[test]
fn a_refused_key_stops_at_once_and_is_not_repeated() {
    let both = |api| if api == Api::Chat { CHAT_KEY } else { SPEECH_KEY };
    for (wrong, code) in [(Api::Chat, 401), (Api::Chat, 403), (Api::Speech, 401)] {
        let server = Server::start(Duration::from_millis(5), move |api, _, _| match api == wrong {
            true => status(code, "", &format!("Incorrect API key provided: {}", both(api))),
            false => Act::Good,
        });
        let site = Site::new(&server.url, 40);
        let said = site.run("out", &["--set", "chat.concurrency=2", "--set", "speech.concurrency=2"]);
        let path = if wrong == Api::Chat { "/v1/chat/completions" } else { "/cognitiveservices/v1" };
        let wanted = format!(
            "error: {}{path} refused the key ({code}): Incorrect API key provided: [key]; check the key and what it may be used \
             for, then run again",
            server.url
        );
        assert_eq!(said.error(), wanted);
        assert!(server.asked_for(wrong).len() <= 2);
    }
}

#[test]
fn an_account_without_money_stops_at_once() {
    let body = r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#;
    let server = Server::start(Duration::ZERO, move |_, _, _| Act::Status(429, "", body.into()));
    let said = Site::new(&server.url, 40).run("out", &["--set", "chat.concurrency=2"]);
    assert!(
        said.error().contains("refused the key (429): You exceeded your current quota (insufficient_quota)"),
        "{said:?}"
    );
    assert!(server.asked().len() <= 2);
}

#[test]
fn a_key_in_a_good_reply_is_not_kept() {
    let server = Server::start(Duration::ZERO, |api, text, _| match (api, index_of(text)) {
        (Api::Chat, 0) => json(&completion(&format!("Your key is {CHAT_KEY}"), "stop")),
        _ => Act::Good,
    });
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    let all = ["train", "valid", "test"].map(|part| site.lines("out", &format!("{part}.jsonl"))).concat();
    assert_eq!(all.iter().find(|line| line["id"] == "q00").unwrap()["response"], "Your key is [key]");
}

#[test]
fn nobody_there_is_said_with_the_reason() {
    let site = Site::new("http://127.0.0.1:9", 10);
    let said = site.run("out", &["--set", "limits.tries=2"]);
    assert!(
        said.error().contains("1 of 10 texts have no response") && said.error().contains("the request failed: "),
        "{said:?}"
    );
}

/// Kills the builder once `good` requests were answered, and has another go on.
fn killed_and_continued(good: usize) {
    let server = Server::start(Duration::from_millis(20), |_, _, _| Act::Good);
    let site = Site::new(&server.url, 40);
    let threads = ["--set", "chat.concurrency=3", "--set", "speech.concurrency=3"];
    let mut child = site.command("killed", &threads).spawn().unwrap();
    server.wait_for(good);
    // SIGKILL: nothing is tidied up.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!site.path("killed/stats.json").exists());
    site.run("killed", &threads).good();
    let mut tries: BTreeMap<(Api, String), usize> = BTreeMap::new();
    server.asked().into_iter().for_each(|asked| *tries.entry((asked.api, asked.text)).or_default() += 1);
    assert_eq!(tries.len(), 80);
    let again: usize = tries.values().map(|count| count - 1).sum();
    assert!(
        again <= 3 && tries.values().all(|&count| count <= 2),
        "{again} asked twice, though only 3 were on their way"
    );
    site.run("whole", &threads).good();
    assert!(corpus(&site.path("killed")) == corpus(&site.path("whole")));
}

#[test]
fn killed_while_asking_it_goes_on_without_paying_twice() {
    killed_and_continued(15);
}

#[test]
fn killed_while_speaking_it_goes_on_without_paying_twice() {
    killed_and_continued(60);
}

#[test]
fn killed_in_the_middle_of_a_line_or_of_the_shards_it_goes_on() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    let whole = corpus(&site.path("out"));
    let journal = site.path("out/journal.jsonl");
    let lines = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &lines[..lines.len() - 10]).unwrap();
    // As a kill leaves it: shards without an index, no statistics, a recording that was never renamed.
    std::fs::remove_file(site.path("out/stats.json")).unwrap();
    std::fs::remove_file(site.path("out/train/index.json")).unwrap();
    std::fs::create_dir(site.path("out/tmp")).unwrap();
    std::fs::write(site.path("out/tmp/0.wav"), "half").unwrap();
    site.run("out", &[]).good();
    assert!(corpus(&site.path("out")) == whole);
    assert_eq!(server.asked().len(), 21);
}

#[test]
fn a_recording_that_was_lost_is_made_again() {
    let server = Server::good();
    let site = Site::new(&server.url, 10);
    site.run("out", &[]).good();
    let whole = corpus(&site.path("out"));
    std::fs::remove_file(site.path("out/stats.json")).unwrap();
    std::fs::remove_file(site.path("out/wav/q03.wav")).unwrap();
    std::fs::write(site.path("out/wav/q04.wav"), "torn").unwrap();
    site.run("out", &[]).good();
    assert_eq!((server.asked_for(Api::Chat).len(), server.asked_for(Api::Speech).len()), (10, 12));
    let mut again = corpus(&site.path("out"));
    // Two recordings were paid for twice, and the statistics say so.
    let stats = std::path::Path::new("stats.json");
    assert_ne!(again[stats], whole[stats]);
    again.insert(stats.into(), whole[stats].clone());
    assert!(again == whole);
}
