//! Requests to one endpoint, at its rate, and what to make of the replies.

use super::error::SynthError;
use super::pace::{Bucket, Failure, Halt};
use super::secret::Secret;
use std::time::{Duration, SystemTime};
use ureq::Agent;
use ureq::http::HeaderMap;

/// A reply larger than this is none to a question or a sentence.
const MAX_BYTES: u64 = 64 << 20;
/// A server that wants a longer pause is asked again after this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So much of a server's message is repeated.
const MESSAGE_CHARACTERS: usize = 200;

/// Where requests go.
pub struct Endpoint<'a> {
    agent: Agent,
    url: String,
    /// The header that carries the key, what stands before it, and the key.
    key: Option<(&'static str, &'static str, Secret)>,
    bucket: Bucket,
    halt: &'a Halt,
}

/// A reply of status 2xx.
#[derive(Debug)]
pub struct Reply {
    /// The header `Content-Type`, or "".
    pub content_type: String,
    /// All of it.
    pub body: Vec<u8>,
}

impl<'a> Endpoint<'a> {
    /// `key` goes into its header with every request; nothing is sent yet.
    pub fn new(
        url: String,
        key: Option<(&'static str, &'static str, Secret)>,
        requests_per_minute: f64,
        timeout_seconds: f64,
        halt: &'a Halt,
    ) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs_f64(timeout_seconds)))
            // A key must not follow a redirection to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("echat/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { agent, url, key, bucket: Bucket::new(requests_per_minute), halt }
    }

    /// Sends `body` when it is its turn.
    pub fn post(&self, headers: &[(&str, &str)], body: &str) -> Result<Reply, Failure> {
        self.bucket.turn(self.halt).map_err(Failure::Fatal)?;
        let mut request = self.agent.post(&self.url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some((name, prefix, key)) = &self.key {
            request = request.header(*name, key.header(prefix));
        }
        let broken = |e: ureq::Error| Failure::Again(self.scrub(&format!("the request failed: {e}")), None);
        let mut reply = request.send(body).map_err(broken)?;
        let (status, asked) = (reply.status().as_u16(), retry_after(reply.headers()));
        let content_type =
            reply.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
        let body = reply.body_mut().with_config().limit(MAX_BYTES).read_to_vec();
        if (200..300).contains(&status) {
            return Ok(Reply { content_type, body: body.map_err(broken)? });
        }
        Err(self.failure(status, asked, &message(&body.unwrap_or_default())))
    }

    fn failure(&self, status: u16, asked: Option<Duration>, message: &str) -> Failure {
        let message = self.scrub(message);
        // An account without money answers 429 for ever.
        if matches!(status, 401 | 403) || status == 429 && message.contains("insufficient_quota") {
            return Failure::Fatal(SynthError::Denied { url: self.url.clone(), status, message });
        }
        let reason = format!("the server answered {status}: {message}");
        match status {
            408 | 429 | 500..=599 => {
                // The others need not find out one by one.
                asked.into_iter().for_each(|time| self.bucket.pause(time.min(LONGEST_PAUSE)));
                Failure::Again(reason, asked)
            }
            _ => Failure::Never(reason),
        }
    }

    /// `text` without the key, which some servers repeat.
    pub fn scrub(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.into(), |(_, _, key)| key.scrub(text))
    }
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?.trim();
    match value.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// What the body of a failure says, in one line: `error.message` and `error.code` as OpenAI's servers write it, or the text itself.
fn message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let error = serde_json::from_str::<serde_json::Value>(&text).ok().map(|value| value["error"].clone());
    let said = error.and_then(|error| {
        let code = error["code"].as_str().map(|code| format!(" ({code})")).unwrap_or_default();
        Some(format!("{}{code}", error["message"].as_str()?))
    });
    let said = said.unwrap_or_else(|| text.into_owned());
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.is_empty() {
        true => "it gave no reason".into(),
        false => line.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARACTERS).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_one_short_line() {
        assert_eq!(message(br#"{"error": {"message": "Too\nfast", "code": "rate"}}"#), "Too fast (rate)");
        assert_eq!(message(br#"{"error": {"message": "No", "code": null}}"#), "No");
        assert_eq!(message(b"<h1>\nBad</h1>"), "<h1> Bad</h1>");
        assert_eq!(message(b" "), "it gave no reason");
        assert_eq!(message("长".repeat(1000).as_bytes()).chars().count(), 200);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |value: &str| {
            retry_after(&HeaderMap::from_iter([("retry-after".parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait(" 0.5 "), Some(Duration::from_millis(500)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!((95..=100).contains(&wait(&soon).unwrap().as_secs()));
        for nothing in ["-1", "nan", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(wait(nothing), None, "{nothing}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
