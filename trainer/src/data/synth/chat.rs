//! Responses by an OpenAI-compatible chat endpoint.

use super::config::ChatConfig;
use super::error::SynthError;
use super::http::Endpoint;
use super::pace::{Failure, Halt};
use super::secret::Secret;
use super::template::fill;
use super::texts::Item;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Tokens of one request, as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of the messages sent.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Of the response.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// A response and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What is answered.
    pub response: String,
    /// Zero if the server does not say.
    pub usage: Usage,
}

/// What of a reply matters.
#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    refusal: Option<String>,
}

/// The messages about `item`: system (if it is not ""), user.
pub fn messages(config: &ChatConfig, item: &Item) -> Vec<(&'static str, String)> {
    let values = [("text", item.text.as_str()), ("emotion", item.emotion.name())];
    let all = [("system", &config.system), ("user", &config.user)];
    all.into_iter().filter(|(_, template)| !template.is_empty()).map(|(role, t)| (role, fill(t, &values))).collect()
}

/// The body of the request about `item`: everything that decides the response.
pub fn body(config: &ChatConfig, item: &Item) -> String {
    let messages = messages(config, item).into_iter().map(|(role, content)| json!({"role": role, "content": content}));
    let mut body = json!({"model": config.model, "messages": messages.collect::<Vec<Value>>()});
    let optional = [
        ("temperature", config.temperature.map(Value::from)),
        ("max_tokens", config.max_tokens.map(Value::from)),
        ("seed", config.seed.map(Value::from)),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            body[key] = value;
        }
    }
    body.to_string()
}

/// The endpoint of `config`, with its key.
pub fn endpoint<'a>(config: &ChatConfig, halt: &'a Halt) -> Result<Endpoint<'a>, SynthError> {
    let url = format!("{}/chat/completions", config.base_url.trim_end_matches('/'));
    let key = Secret::find(&url, "chat", &config.key_env, config.key_file.as_deref())?;
    let key = key.map(|key| ("Authorization", "Bearer ", key));
    Ok(Endpoint::new(url, key, config.requests_per_minute, config.timeout_seconds, halt))
}

/// Asks once.
pub fn ask(endpoint: &Endpoint<'_>, body: &str) -> Result<Answer, Failure> {
    let reply = endpoint.post(&[("Content-Type", "application/json")], body)?;
    answer(&endpoint.scrub(&String::from_utf8_lossy(&reply.body)))
}

fn answer(reply: &str) -> Result<Answer, Failure> {
    let again = |reason: String| Failure::Again(reason, None);
    let completion: Completion =
        serde_json::from_str(reply).map_err(|e| again(format!("its reply is no chat completion: {e}")))?;
    let choice = completion.choices.into_iter().next().ok_or_else(|| again("its reply holds no choice".into()))?;
    match choice.finish_reason.as_deref() {
        Some("length") => {
            return Err(Failure::Never("the response was cut off: raise `chat.max_tokens`".into()));
        }
        Some("content_filter") => {
            return Err(Failure::Never("the server's content filter stopped the response".into()));
        }
        None | Some("stop") => {}
        Some(other) => return Err(again(format!("the response ended with `{other}`, not with `stop`"))),
    }
    if let Some(refusal) = choice.message.refusal.filter(|refusal| !refusal.is_empty()) {
        return Err(Failure::Never(format!("the model refused: {refusal}")));
    }
    let response = choice.message.content.unwrap_or_default().trim().to_string();
    match response.is_empty() {
        true => Err(again("the response is empty".into())),
        false => Ok(Answer { response, usage: completion.usage.unwrap_or_default() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reply(content: Value, finish: Value) -> String {
        json!({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}],
               "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})
        .to_string()
    }

    #[test]
    fn a_whole_response_is_taken_without_its_margins() {
        for finish in [json!("stop"), Value::Null] {
            let answer = answer(&reply(json!(" 别难过\n"), finish)).unwrap();
            assert_eq!(
                (answer.response.as_str(), answer.usage.prompt_tokens, answer.usage.completion_tokens),
                ("别难过", 7, 3)
            );
        }
        let bare = json!({"choices": [{"message": {"content": "x"}}]}).to_string();
        assert_eq!(answer(&bare).unwrap().usage, Usage::default());
    }

    #[test]
    fn what_is_no_response_is_asked_again_or_given_up() {
        let again = [
            reply(json!(""), json!("stop")),
            reply(Value::Null, json!("stop")),
            reply(json!("x"), json!("tool_calls")),
            json!({"choices": []}).to_string(),
            "{\"choices\": [{\"mess".into(),
            "<html>".into(),
        ];
        for body in again {
            assert!(matches!(answer(&body), Err(Failure::Again(..))), "{body}");
        }
        for finish in ["length", "content_filter"] {
            assert!(matches!(answer(&reply(json!("x"), json!(finish))), Err(Failure::Never(_))), "{finish}");
        }
        let refused =
            json!({"choices": [{"message": {"content": null, "refusal": "I cannot"}, "finish_reason": "stop"}]});
        assert!(
            matches!(answer(&refused.to_string()), Err(Failure::Never(reason)) if reason == "the model refused: I cannot")
        );
    }
}
