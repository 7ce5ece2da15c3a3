//! The builder's configuration (`configs/echat/synth.toml`, `configs/mini/synth.toml`).

use crate::config::{choice, section};
use crate::data::emotion::Emotion;
use std::collections::BTreeMap;
use std::path::PathBuf;

section! {
    /// Every key of a corpus that `echat synth` builds.
    pub struct SynthConfig {
        /// The questions.
        pub texts: TextsConfig,
        /// Who answers them; without this section the responses are those of the texts.
        pub chat: Option<ChatConfig> = None,
        /// Who speaks them.
        pub speech: SpeechConfig,
        /// How the corpus is divided; needed by `texts.files`, not allowed with `texts.parts`.
        pub split: Option<SplitConfig> = None,
        /// The feature shards.
        pub shards: ShardsConfig = ShardsConfig::default(),
        /// What is done about failures.
        pub limits: LimitsConfig = LimitsConfig::default(),
        /// What things cost, for the estimate and the report; in any currency.
        pub prices: PricesConfig = PricesConfig::default(),
    }
}

section! {
    /// Emotion-labelled texts: TSV files with a header line, or JSONL.
    pub struct TextsConfig {
        /// The files below are relative to it.
        pub folder: PathBuf = PathBuf::from("."),
        /// One pool of texts, which `[split]` divides.
        pub files: Vec<PathBuf> = Vec::new(),
        /// Instead of `files`: the files of each part of the corpus.
        pub parts: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new(),
        /// What the columns or keys are called.
        pub columns: ColumnsConfig = ColumnsConfig::default(),
        /// Labels of the files that mean one of the five emotions: `happiness = "cheerful"`.
        pub emotions: BTreeMap<String, String> = BTreeMap::new(),
    }
}

section! {
    /// Names of columns (TSV) or keys (JSONL). Those of text and emotion must be there.
    pub struct ColumnsConfig {
        /// What is said.
        pub text: String = "text".into(),
        /// How it is said.
        pub emotion: String = "emotion".into(),
        /// Optional: what is answered; where there is one, nobody else is asked.
        pub response: String = "response".into(),
        /// Optional: unique, fit for a file name; by default the file's stem, `-` and the line number.
        pub id: String = "id".into(),
        /// Optional: who says it; by default drawn from the backend's voices.
        pub voice: String = "voice".into(),
        /// Optional: what is spoken where that is written differently, such as pinyin.
        pub spoken: String = "spoken".into(),
    }
}

section! {
    /// Responses by any OpenAI-compatible chat endpoint (`POST BASE_URL/chat/completions`).
    pub struct ChatConfig {
        /// Where it is.
        pub base_url: String = "https://api.openai.com/v1".into(),
        /// Who answers; the paper's by default.
        pub model: String = "gpt-3.5-turbo".into(),
        /// The environment variable that holds the key; "" for an endpoint that wants none.
        pub key_env: String = "OPENAI_API_KEY".into(),
        /// A file that holds the key, instead of the variable.
        pub key_file: Option<PathBuf> = None,
        /// The system message; {text} and {emotion} stand for the question's.
        pub system: String = "You are a warm and attentive listener. Someone speaks to you; you are told what is said and with which \
            emotion. Answer in the language of the speaker with one or two sentences that respond to both and comfort where \
            comfort is needed. Write the response only.".into(),
        /// The user's message.
        pub user: String = "Emotion: {emotion}\nText: {text}".into(),
        /// Sampling temperature, if it is to be sent.
        pub temperature: Option<f64> = None,
        /// Longest response in tokens, if it is to be sent. A response cut off there is left out.
        pub max_tokens: Option<u32> = None,
        /// The endpoint's sampling seed, if it is to be sent.
        pub seed: Option<u32> = None,
        /// Requests a minute, at most; 0 for no limit.
        pub requests_per_minute: f64 = 500.0,
        /// Requests in flight, at most.
        pub concurrency: usize = 8,
        /// A request that takes longer has failed.
        pub timeout_seconds: f64 = 60.0,
    }
}

choice! {
    /// What speaks.
    pub enum Backend {
        /// An Azure-compatible REST endpoint: `[speech.azure]`.
        Azure = "azure",
        /// A local program: `[speech.command]`.
        Command = "command",
    }
}

section! {
    /// Speech by a TTS backend. Whatever it gives is kept as WAV, 16 kHz, mono.
    pub struct SpeechConfig {
        /// Which one.
        pub backend: Backend,
        /// Seed of the draw of voices; each text's depends on its id alone.
        pub seed: u64 = 1,
        /// Requests in flight or programs running, at most.
        pub concurrency: usize = 4,
        /// What takes longer has failed.
        pub timeout_seconds: f64 = 60.0,
        /// Less speech than this for a character of text is no recording of it.
        pub min_seconds_per_character: f64 = 0.02,
        /// More speech than this for a character of text, and 3 s, is no recording of it.
        pub max_seconds_per_character: f64 = 1.0,
        /// Backend "azure".
        pub azure: AzureConfig = AzureConfig::default(),
        /// Backend "command".
        pub command: CommandConfig = CommandConfig::default(),
    }
}

section! {
    /// `POST ENDPOINT/cognitiveservices/v1` with SSML.
    pub struct AzureConfig {
        /// Where it is: `https://REGION.tts.speech.microsoft.com`.
        pub endpoint: String = String::new(),
        /// The environment variable that holds the key; "" for an endpoint that wants none.
        pub key_env: String = "AZURE_SPEECH_KEY".into(),
        /// A file that holds the key, instead of the variable.
        pub key_file: Option<PathBuf> = None,
        /// What it sends: `riff-…-pcm` or `…-mp3`.
        pub output_format: String = "riff-16khz-16bit-mono-pcm".into(),
        /// The language of the texts.
        pub language: String = "zh-CN".into(),
        /// Who may speak; by default ten voices that have all of the styles.
        pub voices: Vec<String> = ["Xiaoxiao", "Xiaomo", "Xiaohan", "Xiaoyi", "Xiaozhen", "Yunxi", "Yunxia", "Yunye", "Yunze", "Yunfeng"]
            .map(|name| format!("zh-CN-{name}Neural")).into(),
        /// Styles of emotions, "" for none; by default each emotion's own name, and none for neutral.
        pub styles: BTreeMap<String, String> = BTreeMap::new(),
        /// Requests a minute, at most; 0 for no limit.
        pub requests_per_minute: f64 = 600.0,
    }
}

section! {
    /// A program that writes a recording: WAV, FLAC, Ogg Vorbis or MP3, at any rate.
    pub struct CommandConfig {
        /// The program and its arguments, run without a shell. {text}, {emotion}, {voice}, {id}, {style}, {out} (the file to write) and
        /// {folder} (that of the texts) are replaced. An argument that is {style} alone becomes as many as the style has words.
        pub run: Vec<String> = Vec::new(),
        /// The program is started `concurrency` times and stays: it reads jobs from standard input, a line of JSON each (id, text,
        /// emotion, voice, style, out), and answers each with one {"id": …, "error": null or a message} on standard output.
        pub persistent: bool = false,
        /// Who may speak: drawn for {voice} where the texts do not say.
        pub voices: Vec<String> = Vec::new(),
        /// What {style} stands for, by emotion.
        pub styles: BTreeMap<String, String> = BTreeMap::new(),
    }
}

section! {
    /// Parts of the corpus, each with the same share of every emotion.
    pub struct SplitConfig {
        /// Which utterances go where.
        pub seed: u64 = 1,
        /// Utterances of each part but `rest`; give this or `shares`.
        pub counts: BTreeMap<String, usize> = BTreeMap::new(),
        /// Share of the utterances of each part but `rest`.
        pub shares: BTreeMap<String, f64> = BTreeMap::new(),
        /// The part that gets all others.
        pub rest: String = "train".into(),
    }
}

section! {
    /// As `echat prepare` makes them.
    pub struct ShardsConfig {
        /// Size of a shard in MiB, at most.
        pub shard_mib: usize = 512,
    }
}

section! {
    /// Failures: 408, 429, 5xx, time-outs, broken connections and unusable replies are tried again; other refusals are not.
    pub struct LimitsConfig {
        /// Tries for each response and recording, at most.
        pub tries: u32 = 6,
        /// Wait after the first failure in seconds; doubled after each further one, less up to a half at random.
        pub backoff_seconds: f64 = 1.0,
        /// Longest such wait in seconds.
        pub max_backoff_seconds: f64 = 60.0,
        /// A server's `Retry-After` is obeyed; one of more seconds than this counts as a refusal.
        pub max_retry_after_seconds: f64 = 600.0,
        /// More than this share of texts without response or recording is an error; up to it they are left out and listed.
        pub max_bad_share: f64 = 0.01,
    }
}

section! {
    /// For `--dry-run` and the report.
    pub struct PricesConfig {
        /// For 1,000 tokens of prompt.
        pub prompt_per_1k_tokens: f64 = 0.0,
        /// For 1,000 tokens of response.
        pub response_per_1k_tokens: f64 = 0.0,
        /// For 1,000,000 characters spoken, as Azure counts them: a Chinese character is two, and markup counts.
        pub speech_per_1m_characters: f64 = 0.0,
        /// Tokens a response is estimated at, until there are some to go by.
        pub response_tokens: f64 = 60.0,
    }
}

impl AzureConfig {
    /// The style of `emotion`, "" for none.
    pub fn style(&self, emotion: Emotion) -> &str {
        match (self.styles.get(emotion.name()), emotion) {
            (Some(style), _) => style,
            (None, Emotion::Neutral) => "",
            (None, emotion) => emotion.name(),
        }
    }
}

impl CommandConfig {
    /// What {style} stands for, "" for nothing.
    pub fn style(&self, emotion: Emotion) -> &str {
        self.styles.get(emotion.name()).map_or("", String::as_str)
    }
}

impl SynthConfig {
    /// The environment variables that may hold keys.
    pub fn key_variables(&self) -> Vec<String> {
        let chat = self.chat.as_ref().map(|chat| chat.key_env.clone());
        chat.into_iter().chain([self.speech.azure.key_env.clone()]).filter(|name| !name.is_empty()).collect()
    }
}
