//! SentencePiece BPE models (`tokenizer.model`) as a pipeline of the `tokenizers` crate, equal to Python's `sentencepiece`.
//!
//! The crate's own BPE cannot stand for them exactly: it ranks pairs of tokens, each with its own rank, where SentencePiece
//! ranks the joined piece (equal scores go to the leftmost pair), joins parts that are no pieces themselves, takes unused
//! pieces apart again, never joins user-defined symbols, and normalises by longest prefix. So the pipeline has a normalizer, a model and
//! a decoder of its own ([`pipeline`]), which do what `SentencePieceProcessor` does.

mod bpe;
mod normalizer;
mod pipeline;
mod proto;

use std::collections::HashMap;

use bpe::{Bpe, Entry};
use normalizer::Normalizer;
pub(super) use pipeline::{Pipeline, pipeline};
use proto::{Kind, ModelProto, ModelType};

type Ids = HashMap<String, u32>;

/// A loaded model.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: Vec<proto::Piece>,
    normalizer: Normalizer,
    bpe: Bpe,
    /// Control, unknown and byte pieces: no joining leads to them.
    reserved: Ids,
    unk: u32,
    /// Ids of `<0x00>` … `<0xFF>`, if the model falls back to bytes.
    bytes: Option<Vec<u32>>,
    unk_surface: String,
    special: SpecialIds,
}

/// Ids of the trainer specification; `None` where switched off.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SpecialIds {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) unk: Option<u32>,
}

impl SentencePiece {
    /// Reads a serialised `ModelProto`; the error says what is wrong with it.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let ModelProto { pieces, trainer, normalizer, denormalizes } =
            proto::parse(bytes).map_err(|error| format!("not a SentencePiece model: {error}"))?;
        if trainer.model_type != ModelType::Bpe {
            return Err(format!("a SentencePiece {} model; only BPE is supported", trainer.model_type.name()));
        }
        if denormalizes || trainer.whitespace_suffix {
            return Err("uses a denormalizer or treat_whitespace_as_suffix, which are not supported".into());
        }
        let unk = only_unknown(&pieces)?;
        let bytes = if trainer.byte_fallback { Some(byte_ids(&pieces)?) } else { None };
        let (entries, reserved) = vocabulary(&pieces)?;
        let user_defined = pieces.iter().filter(|piece| piece.kind == Kind::UserDefined);
        let user_defined = bpe::Prefixes::new(user_defined.map(|piece| piece.text.clone()).collect());
        let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < pieces.len());
        let special =
            SpecialIds { bos: id(trainer.bos_id), eos: id(trainer.eos_id), pad: id(trainer.pad_id), unk: Some(unk) };
        Ok(Self {
            normalizer: Normalizer::new(normalizer, user_defined.clone())?,
            bpe: Bpe { entries, user_defined },
            reserved,
            pieces,
            unk,
            bytes,
            unk_surface: trainer.unk_surface,
            special,
        })
    }

    pub(super) fn special(&self) -> SpecialIds {
        self.special
    }

    pub(super) fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|piece| piece.text.as_str())
    }

    /// Pieces that stand for themselves in a template: control, unknown and user-defined ones, and `<…>` in general.
    pub(super) fn special_pieces(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..).zip(&self.pieces).filter_map(|(id, piece)| {
            let bracketed = piece.text.len() > 2 && piece.text.starts_with('<') && piece.text.ends_with('>');
            let special = match piece.kind {
                Kind::Control | Kind::Unknown | Kind::UserDefined => true,
                Kind::Normal => bracketed,
                Kind::Byte | Kind::Unused => false,
            };
            special.then_some((piece.text.as_str(), id))
        })
    }

    fn id(&self, piece: &str) -> Option<u32> {
        let reserved = self.reserved.get(piece).copied();
        reserved.or_else(|| self.bpe.entries.get(piece).map(|entry| entry.id))
    }

    fn kind(&self, piece: &str) -> Kind {
        self.id(piece).map_or(Kind::Unknown, |id| self.pieces[id as usize].kind)
    }
}

/// The pieces joining may reach, and those it may not.
fn vocabulary(pieces: &[proto::Piece]) -> Result<(HashMap<String, Entry>, Ids), String> {
    let mut entries = HashMap::new();
    let mut reserved = Ids::new();
    for (id, piece) in (0..).zip(pieces) {
        let proto::Piece { text, score, kind } = piece;
        if text.is_empty() || !score.is_finite() {
            return Err(format!("piece {id} has no text or a score that is not finite"));
        }
        let entry = Entry { id, score: *score, unused: *kind == Kind::Unused };
        let twice = match kind {
            Kind::Normal | Kind::UserDefined | Kind::Unused => entries.insert(text.clone(), entry).is_some(),
            Kind::Control | Kind::Unknown | Kind::Byte => reserved.insert(text.clone(), id).is_some(),
        };
        if twice {
            return Err(format!("piece {id} ({text:?}) is in the vocabulary twice"));
        }
    }
    Ok((entries, reserved))
}

fn only_unknown(pieces: &[proto::Piece]) -> Result<u32, String> {
    let mut unknown = (0..).zip(pieces).filter(|(_, piece)| piece.kind == Kind::Unknown).map(|(id, _)| id);
    match (unknown.next(), unknown.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err("has no piece of type UNKNOWN".into()),
        (Some(_), Some(_)) => Err("has two pieces of type UNKNOWN".into()),
    }
}

fn byte_ids(pieces: &[proto::Piece]) -> Result<Vec<u32>, String> {
    let mut ids = vec![None; 256];
    for (id, piece) in (0..).zip(pieces).filter(|(_, piece)| piece.kind == Kind::Byte) {
        let byte = proto::byte_value(&piece.text).ok_or_else(|| format!("byte piece {id} is {:?}", piece.text))?;
        ids[byte as usize] = Some(id);
    }
    ids.into_iter().collect::<Option<_>>().ok_or_else(|| "falls back to bytes but has not all 256 of them".into())
}
