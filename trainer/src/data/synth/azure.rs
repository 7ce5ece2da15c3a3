//! Speech by an Azure-compatible REST endpoint: SSML in, a recording out.

use super::config::{AzureConfig, SpeechConfig};
use super::error::SynthError;
use super::http::Endpoint;
use super::pace::{Failure, Halt};
use super::secret::Secret;
use super::speech::Question;
use std::path::Path;

/// The endpoint of `config`, with its key.
pub fn endpoint<'a>(config: &SpeechConfig, halt: &'a Halt) -> Result<Endpoint<'a>, SynthError> {
    let azure = &config.azure;
    let url = format!("{}/cognitiveservices/v1", azure.endpoint.trim_end_matches('/'));
    let key = Secret::find(&url, "speech.azure", &azure.key_env, azure.key_file.as_deref())?;
    let key = key.map(|key| ("Ocp-Apim-Subscription-Key", "", key));
    Ok(Endpoint::new(url, key, azure.requests_per_minute, config.timeout_seconds, halt))
}

/// The request's body: everything that decides the recording but its format.
pub fn ssml(config: &AzureConfig, question: &Question<'_>) -> String {
    let (language, voice) = (escape(&config.language), escape(question.voice));
    format!(
        "<speak version=\"1.0\" xmlns=\"http://www.w3.org/2001/10/synthesis\" xmlns:mstts=\"https://www.w3.org/2001/mstts\" \
         xml:lang=\"{language}\"><voice name=\"{voice}\">{}</voice></speak>",
        spoken(question)
    )
}

/// What stands within `<voice>`, which is what is paid for.
fn spoken(question: &Question<'_>) -> String {
    let text = escape(question.text);
    match question.style {
        "" => text,
        style => format!("<mstts:express-as style=\"{}\">{text}</mstts:express-as>", escape(style)),
    }
}

/// Characters as Azure bills them: Chinese, Japanese and Korean ones count twice, markup counts.
pub fn billed(question: &Question<'_>) -> u64 {
    spoken(question)
        .chars()
        .map(
            |c| if matches!(c as u32, 0x1100..=0x11ff | 0x2e80..=0xd7ff | 0xf900..=0xfaff | 0x20000..) { 2 } else { 1 },
        )
        .sum()
}

/// Asks once; writes what came to `to`.
pub fn speak(endpoint: &Endpoint<'_>, config: &AzureConfig, question: &Question<'_>, to: &Path) -> Result<(), Failure> {
    let headers =
        [("Content-Type", "application/ssml+xml"), ("X-Microsoft-OutputFormat", config.output_format.as_str())];
    let reply = endpoint.post(&headers, &ssml(config, question))?;
    let kind = reply.content_type;
    if kind.starts_with("text/") || kind.starts_with("application/json") {
        return Err(Failure::Again(format!("its reply is {kind}, not audio"), None));
    }
    std::fs::write(to, reply.body).map_err(|e| Failure::Fatal(SynthError::io("write", to)(e)))
}

/// Text within XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::emotion::Emotion;

    const QUESTION: Question<'_> = Question {
        id: "a",
        text: "1 < 2 & \"他\"说'好'",
        emotion: Emotion::Sad,
        voice: "zh-CN-YunxiNeural",
        style: "sad",
    };

    #[test]
    fn ssml_is_escaped_and_names_voice_and_style() {
        let wanted = "<speak version=\"1.0\" xmlns=\"http://www.w3.org/2001/10/synthesis\" \
            xmlns:mstts=\"https://www.w3.org/2001/mstts\" xml:lang=\"zh-CN\"><voice name=\"zh-CN-YunxiNeural\">\
            <mstts:express-as style=\"sad\">1 &lt; 2 &amp; &quot;他&quot;说&apos;好&apos;</mstts:express-as></voice></speak>";
        assert_eq!(ssml(&AzureConfig::default(), &QUESTION), wanted);
    }

    #[test]
    fn without_a_style_there_is_no_markup_and_chinese_counts_twice() {
        let plain = Question { text: "你好!", style: "", ..QUESTION };
        assert!(ssml(&AzureConfig::default(), &plain).contains("Neural\">你好!</voice>"));
        assert_eq!(billed(&plain), 5);
        assert_eq!(
            billed(&Question { style: "sad", ..plain }),
            5 + "<mstts:express-as style=\"sad\"></mstts:express-as>".len() as u64
        );
    }
}
