//! The `tokenizers` crate's traits for a [`SentencePiece`] model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{
    Decoder, Model, NormalizedString, Normalizer, PostProcessorWrapper, PreTokenizerWrapper, Result, Token,
    TokenizerImpl,
};

use super::SentencePiece;
use super::normalizer::SPACE;
use super::proto::{self, Kind};

/// Normalising, joining pieces, joining text.
pub(in super::super) type Pipeline = TokenizerImpl<Pieces, Rules, PreTokenizerWrapper, PostProcessorWrapper, Surface>;

/// The pipeline of `model`.
pub(in super::super) fn pipeline(model: SentencePiece) -> Result<Pipeline> {
    let model = Arc::new(model);
    let mut pipeline = TokenizerImpl::new(Pieces(Arc::clone(&model)));
    pipeline.with_normalizer(Some(Rules(Arc::clone(&model))))?;
    pipeline.with_decoder(Some(Surface(model)));
    Ok(pipeline)
}

/// Text → normalised text.
#[derive(Debug, Clone)]
pub(in super::super) struct Rules(Arc<SentencePiece>);

impl Normalizer for Rules {
    /// Offsets are into the normalised text from here on; nothing here asks for those of the original.
    fn normalize(&self, normalized: &mut NormalizedString) -> Result<()> {
        *normalized = NormalizedString::from(self.0.normalizer.normalize(normalized.get()));
        Ok(())
    }
}

/// Normalised text → pieces.
#[derive(Debug, Clone)]
pub(in super::super) struct Pieces(Arc<SentencePiece>);

impl Pieces {
    pub(in super::super) fn model(&self) -> &SentencePiece {
        &self.0
    }

    fn token(&self, id: u32, offsets: (usize, usize)) -> Token {
        Token::new(id, self.0.piece(id).unwrap_or_default().to_owned(), offsets)
    }
}

impl Model for Pieces {
    type Trainer = BpeTrainer;

    fn tokenize(&self, normalized: &str) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let (mut start, mut after_unknown) = (0, false);
        for piece in self.0.bpe.split(normalized) {
            let offsets = (start, start + piece.len());
            let id = self.0.id(piece).unwrap_or(self.0.unk);
            match (&self.0.bytes, id == self.0.unk) {
                (Some(bytes), true) => tokens.extend(piece.bytes().map(|b| self.token(bytes[usize::from(b)], offsets))),
                // A run of unknown pieces is one unknown token.
                (None, true) if after_unknown => {}
                _ => tokens.push(self.token(id, offsets)),
            }
            after_unknown = id == self.0.unk;
            start = offsets.1;
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.piece(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        (0..).zip(&self.0.pieces).map(|(id, piece)| (piece.text.clone(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.0.pieces.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a SentencePiece model is not written: copy its tokenizer.model".into())
    }

    /// The trait wants one; nothing here trains tokenizers.
    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

/// Pieces → text.
#[derive(Debug, Clone)]
pub(in super::super) struct Surface(Arc<SentencePiece>);

impl Decoder for Surface {
    /// Control pieces are invisible.
    fn decode_chain(&self, tokens: Vec<String>) -> Result<Vec<String>> {
        let model = &self.0;
        let mut text = String::new();
        let mut bytes = Vec::new();
        let mut at_start = true;
        let mut space_dropped = false;
        for token in tokens {
            let kind = model.kind(&token);
            if kind == Kind::Byte {
                bytes.extend(proto::byte_value(&token));
                continue;
            }
            push_bytes(&mut text, &mut bytes);
            at_start &= !space_dropped && text.is_empty();
            match kind {
                Kind::Control => space_dropped = false,
                Kind::Unknown => {
                    text.push_str(&model.unk_surface);
                    space_dropped = false;
                }
                _ => {
                    let droppable = at_start && model.normalizer.drops_first_space();
                    let bare = token.strip_prefix(SPACE).filter(|_| droppable);
                    // With remove_extra_whitespaces every leading space goes, otherwise only the dummy prefix.
                    space_dropped = bare.is_some() && !model.normalizer.removes_extra_whitespaces();
                    text.push_str(&bare.unwrap_or(&token).replace(SPACE, " "));
                }
            }
        }
        push_bytes(&mut text, &mut bytes);
        Ok(vec![text])
    }
}

/// Moves `bytes` to `text`, one U+FFFD for each byte that is not UTF-8.
fn push_bytes(text: &mut String, bytes: &mut Vec<u8>) {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let chunk = rest.utf8_chunks().next();
        let valid = chunk.as_ref().map_or("", |chunk| chunk.valid());
        text.push_str(valid);
        rest = &rest[valid.len()..];
        if !rest.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[1..];
        }
    }
    bytes.clear();
}
