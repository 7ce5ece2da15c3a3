//! A small HTTP/1.1 server on 127.0.0.1 that speaks both APIs (chat completions, Azure's speech) and misbehaves as told.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    Chat,
    Speech,
}

/// How one request is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// As it should be.
    Good,
    /// A status, the header Retry-After if it is not "", and a body.
    Status(u16, &'static str, String),
    /// As it should be, but late.
    Slow(Duration),
    /// The header announces more than comes.
    Truncated,
    /// Status 200 with this type and body.
    Other(&'static str, Vec<u8>),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub api: Api,
    /// The question's text.
    pub text: String,
    pub at: Instant,
    pub body: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    /// Answered with [`Act::Good`], to its end.
    pub good: bool,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    tries: HashMap<(Api, String), usize>,
    now: usize,
    most: usize,
}

/// A server that runs until the test's process ends.
pub struct Server {
    pub url: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

type Script = dyn Fn(Api, &str, usize) -> Act + Send + Sync;

impl Server {
    /// Answers the `n`-th request (from 0) about a text as `script` says, after `delay`.
    pub fn start(delay: Duration, script: impl Fn(Api, &str, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state: Arc<(Mutex<State>, Condvar)> = Arc::default();
        let (shared, script): (_, Arc<Script>) = (state.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, script) = (shared.clone(), script.clone());
                // A client that is killed in the middle breaks the connection: no matter.
                std::thread::spawn(move || serve(stream, delay, &shared, &*script));
            }
        });
        Self { url, state }
    }

    /// One that behaves.
    pub fn good() -> Self {
        Self::start(Duration::ZERO, |_, _, _| Act::Good)
    }

    /// All requests so far, in the order they came.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.0.lock().unwrap().asked.clone()
    }

    /// Those for one API.
    pub fn asked_for(&self, api: Api) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.api == api).collect()
    }

    /// The most requests answered at the same time.
    pub fn most(&self) -> usize {
        self.state.0.lock().unwrap().most
    }

    /// Waits until so many requests were answered well.
    pub fn wait_for(&self, good: usize) {
        let (state, changed) = &*self.state;
        let enough = |state: &mut State| state.asked.iter().filter(|asked| asked.good).count() < good;
        let (_state, late) =
            changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(60), enough).unwrap();
        assert!(!late.timed_out());
    }
}

fn serve(mut stream: TcpStream, delay: Duration, shared: &(Mutex<State>, Condvar), script: &Script) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let path = line.split(' ').nth(1)?.to_string();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_string()),
            None => break,
        };
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    let (api, text) = question(&path, &body);
    let (index, act) = {
        let mut state = shared.0.lock().unwrap();
        let tries = state.tries.entry((api, text.clone())).or_default();
        let act = script(api, &text, *tries);
        *tries += 1;
        state.asked.push(Asked { api, text: text.clone(), at: Instant::now(), body, headers, good: false });
        state.now += 1;
        state.most = state.most.max(state.now);
        (state.asked.len() - 1, act)
    };
    sleep(delay);
    // The client may ask for more before we know that it read all.
    shared.0.lock().unwrap().now -= 1;
    let sent = answer(&mut stream, api, &text, &act);
    let mut state = shared.0.lock().unwrap();
    state.asked[index].good = act == Act::Good && sent.is_ok();
    shared.1.notify_all();
    Some(())
}

/// Which API, and about which text.
fn question(path: &str, body: &str) -> (Api, String) {
    if path == "/cognitiveservices/v1" {
        let inner = body.split("<voice name=\"").nth(1).unwrap().split_once('>').unwrap().1;
        let inner = inner.strip_suffix("</voice></speak>").unwrap();
        let text = inner.strip_suffix("</mstts:express-as>").map_or(inner, |styled| styled.split_once('>').unwrap().1);
        return (Api::Speech, text.to_string());
    }
    assert_eq!(path, "/v1/chat/completions");
    let body: Value = serde_json::from_str(body).unwrap();
    let user = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_string();
    (Api::Chat, user.split_once("Text: ").unwrap().1.to_string())
}

fn answer(stream: &mut TcpStream, api: Api, text: &str, act: &Act) -> std::io::Result<()> {
    let (kind, body) = match api {
        Api::Chat => ("application/json", completion(&format!("我听见了：{text}"), "stop").into_bytes()),
        Api::Speech => ("audio/x-wav", wav(&tone(text))),
    };
    match act {
        Act::Good => reply(stream, "200 OK", kind, "", &body, body.len()),
        Act::Slow(time) => {
            sleep(*time);
            reply(stream, "200 OK", kind, "", &body, body.len())
        }
        Act::Truncated => reply(stream, "200 OK", kind, "", &body[..body.len() / 2], body.len()),
        Act::Other(kind, body) => reply(stream, "200 OK", kind, "", body, body.len()),
        Act::Status(status, retry_after, body) => {
            let header = if retry_after.is_empty() { String::new() } else { format!("Retry-After: {retry_after}\r\n") };
            reply(stream, &format!("{status} No"), "application/json", &header, body.as_bytes(), body.len())
        }
    }
}

fn reply(
    stream: &mut TcpStream,
    status: &str,
    kind: &str,
    header: &str,
    body: &[u8],
    announced: usize,
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {announced}\r\nConnection: close\r\n{header}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    stream.flush()
}

/// A chat completion.
pub fn completion(content: &str, finish: &str) -> String {
    json!({"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}],
           "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}})
    .to_string()
}

/// A fifth of a second for each character, at a pitch of its own.
pub fn tone(text: &str) -> Vec<i16> {
    let sample = |c: char, n: u32| (8000.0 * (f64::from(n) * (0.05 + f64::from(c as u32 % 97) / 400.0)).sin()) as i16;
    text.chars().flat_map(|c| (0..3200).map(move |n| sample(c, n))).collect()
}

/// 16 kHz, mono.
pub fn wav(samples: &[i16]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}
