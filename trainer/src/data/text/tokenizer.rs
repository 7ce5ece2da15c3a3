//! Text ↔ token ids, from a Hugging Face model directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    DecodeStream, Result, TextError,
    sentencepiece::{self, SentencePiece, SpecialIds},
};

/// A tokenizer, a pipeline of the `tokenizers` crate: `tokenizer.json`, or SentencePiece's `tokenizer.model` (BPE).
#[derive(Debug)]
pub struct Tokenizer {
    backend: Backend,
    special: SpecialIds,
    stops: Vec<u32>,
    /// Texts that stand for one token in a prompt template, longest first.
    special_tokens: Vec<(String, u32)>,
}

#[derive(Debug)]
enum Backend {
    Tokenizers(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<sentencepiece::Pipeline>),
}

impl Tokenizer {
    /// Loads `tokenizer.json`, or else `tokenizer.model`, from `dir`. The special tokens are those named by
    /// `tokenizer_config.json`, else `generation_config.json`, else `config.json`, else the tokenizer itself.
    ///
    /// # Errors
    /// No tokenizer there, or a file that is unreadable, broken or of an unsupported kind.
    pub fn load(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            return Err(TextError::NoDirectory(dir.into()));
        }
        let (json, model) = (dir.join("tokenizer.json"), dir.join("tokenizer.model"));
        let backend = if json.is_file() {
            let mut tokenizer: tokenizers::Tokenizer = serde_json::from_slice(&read(&json)?)
                .map_err(|error| TextError::Malformed { path: json.clone(), problem: error.to_string() })?;
            // Batches are packed and lengths are the caller's concern.
            tokenizer.with_padding(None);
            tokenizer
                .with_truncation(None)
                .map_err(|error| TextError::Malformed { path: json, problem: error.to_string() })?;
            Backend::Tokenizers(Box::new(tokenizer))
        } else if model.is_file() {
            let pipeline = SentencePiece::from_bytes(&read(&model)?)
                .and_then(|pieces| sentencepiece::pipeline(pieces).map_err(|error| error.to_string()))
                .map_err(|problem| TextError::Malformed { path: model, problem })?;
            Backend::SentencePiece(Box::new(pipeline))
        } else {
            return Err(TextError::NoTokenizer(dir.into()));
        };
        let mut tokenizer = Self {
            special_tokens: special_tokens(&backend),
            backend,
            special: SpecialIds::default(),
            stops: Vec::new(),
        };
        tokenizer.read_special(dir)?;
        Ok(tokenizer)
    }

    fn read_special(&mut self, dir: &Path) -> Result<()> {
        let own = match &self.backend {
            Backend::SentencePiece(pipeline) => pipeline.get_model().model().special(),
            Backend::Tokenizers(_) => SpecialIds::default(),
        };
        let texts = Json::read(dir.join("tokenizer_config.json"))?;
        let ids = [Json::read(dir.join("generation_config.json"))?, Json::read(dir.join("config.json"))?];
        let named = |name: &str| {
            let by_text = texts.text(&format!("{name}_token")).and_then(|text| self.token_id(&text));
            by_text.or_else(|| {
                ids.iter().find_map(|json| self.known(&json.ids(&format!("{name}_token_id"))).first().copied())
            })
        };
        self.special = SpecialIds {
            bos: named("bos").or(own.bos),
            eos: named("eos").or(own.eos),
            pad: named("pad").or(own.pad),
            unk: named("unk").or(own.unk),
        };
        let mut stops: Vec<u32> = self.special.eos.into_iter().collect();
        stops.extend(ids.iter().flat_map(|json| self.known(&json.ids("eos_token_id"))));
        stops.sort_unstable();
        stops.dedup();
        self.stops = stops;
        Ok(())
    }

    fn known(&self, ids: &[u64]) -> Vec<u32> {
        let size = self.vocab_size() as u64;
        ids.iter().filter(|&&id| id < size).filter_map(|&id| u32::try_from(id).ok()).collect()
    }

    /// Token ids of `text`; no special tokens are added.
    ///
    /// # Errors
    /// Text the tokenizer cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = match &self.backend {
            Backend::SentencePiece(pipeline) => pipeline.encode_fast(text, false),
            Backend::Tokenizers(tokenizer) => tokenizer.encode_fast(text, false),
        };
        match encoding {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(TextError::Encode { text: text.into(), problem: error.to_string() }),
        }
    }

    /// The text of `ids`, without special tokens. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(&id) = ids.iter().find(|&&id| self.token(id).is_none()) {
            return Err(TextError::UnknownId { id, vocab_size: self.vocab_size() });
        }
        let text = match &self.backend {
            Backend::SentencePiece(pipeline) => pipeline.decode(ids, true),
            Backend::Tokenizers(tokenizer) => tokenizer.decode(ids, true),
        };
        text.map_err(|error| TextError::Decode(error.to_string()))
    }

    /// A decoder that takes tokens one by one and never puts out part of a character.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// End of sequence: ends every target.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// Padding.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Unknown.
    pub fn unk(&self) -> Option<u32> {
        self.special.unk
    }

    /// Every id that ends generation: EOS and those listed in `generation_config.json` and `config.json`; ascending.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// The number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        match &self.backend {
            Backend::SentencePiece(pipeline) => pipeline.get_vocab_size(true),
            Backend::Tokenizers(tokenizer) => tokenizer.get_vocab_size(true),
        }
    }

    /// The token `id` stands for, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.backend {
            Backend::SentencePiece(pipeline) => pipeline.id_to_token(id),
            Backend::Tokenizers(tokenizer) => tokenizer.id_to_token(id),
        }
    }

    /// The id of the special token written `text`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.special_tokens.iter().find(|(token, _)| token == text).map(|(_, id)| *id).or_else(|| match &self.backend {
            Backend::SentencePiece(_) => None,
            Backend::Tokenizers(tokenizer) => tokenizer.token_to_id(text),
        })
    }

    /// Token ids of `text` where special tokens, written out, become their ids.
    pub(super) fn encode_template(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let (mut plain, mut at) = (0, 0);
        while at < text.len() {
            let special = self.special_tokens.iter().find(|(token, _)| text[at..].starts_with(token.as_str()));
            match special {
                Some((token, id)) => {
                    ids.extend(self.encode_some(&text[plain..at])?);
                    ids.push(*id);
                    at += token.len();
                    plain = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        ids.extend(self.encode_some(&text[plain..])?);
        Ok(ids)
    }

    fn encode_some(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() { Ok(Vec::new()) } else { self.encode(text) }
    }
}

fn special_tokens(backend: &Backend) -> Vec<(String, u32)> {
    let mut tokens: Vec<(String, u32)> = match backend {
        Backend::SentencePiece(pipeline) => {
            pipeline.get_model().model().special_pieces().map(|(text, id)| (text.to_string(), id)).collect()
        }
        Backend::Tokenizers(tokenizer) => {
            tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (token.content, id)).collect()
        }
    };
    tokens.retain(|(text, _)| !text.is_empty());
    tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
    tokens
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| TextError::Read { path: path.into(), source })
}

/// A JSON file that may be absent.
struct Json(Value);

impl Json {
    fn read(path: PathBuf) -> Result<Self> {
        if !path.is_file() {
            return Ok(Self(Value::Null));
        }
        serde_json::from_slice(&read(&path)?)
            .map(Self)
            .map_err(|error| TextError::Malformed { path, problem: format!("not valid JSON: {error}") })
    }

    /// `"bos_token": "<s>"` or `"bos_token": {"content": "<s>", …}`.
    fn text(&self, key: &str) -> Option<String> {
        let value = self.0.get(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
    }

    /// `"eos_token_id": 2` or `"eos_token_id": [2, 5]`.
    fn ids(&self, key: &str) -> Vec<u64> {
        match self.0.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect(),
            None => Vec::new(),
        }
    }
}
