//! The decoder's input: BOS, emotion token, speech embedding, prompt and target, packed.

use crate::autograd::{Error, Result, Tape, Var};
use crate::data::text::{Layout, Part};
use crate::model::decoder::Decoder;
use crate::nn::{self, Packed, SeqLens};

/// What stands at `{speech}`: an embedding from the connector, or tokens (text-only training).
pub enum Content<'a> {
    /// Rows `[t, d_llm]`, where each utterance lies in them.
    Speech(&'a Var, &'a SeqLens),
    /// Tokens per utterance.
    Tokens(&'a [Vec<u32>]),
}

impl Content<'_> {
    fn len_of(&self, i: usize) -> usize {
        match self {
            Self::Speech(_, seq) => seq.len_of(i),
            Self::Tokens(tokens) => tokens[i].len(),
        }
    }
}

/// A batch as the decoder reads it.
pub struct Assembled {
    /// `[t, d_llm]`.
    pub x: Var,
    /// Where each sequence lies.
    pub packed: Packed,
    /// Rows that predict a target token …
    pub rows: Vec<u32>,
    /// … and that token.
    pub labels: Vec<u32>,
}

/// Row sources of the gather.
const TOKENS: u32 = 0;
const SPEECH: u32 = 1;

/// Assembles utterances `0..samples.len()`. `targets` (with EOS) follow the layout in training and are absent in generation.
/// `ids` names them in errors.
#[allow(clippy::too_many_arguments)]
pub fn assemble(
    tape: &Tape,
    decoder: &Decoder,
    layout: &Layout,
    content: &Content,
    emotion: Option<&Var>,
    targets: Option<&[Vec<u32>]>,
    samples: &std::sync::Arc<[u64]>,
    ids: &[String],
) -> Result<Assembled> {
    let mut build =
        Builder { emotion_source: if matches!(content, Content::Speech(..)) { 2 } else { 1 }, ..Builder::default() };
    for i in 0..samples.len() {
        build.sequence(layout, content, emotion.is_some(), targets.map(|t| t[i].as_slice()), i);
    }
    if let Some((i, &longest)) = build.lens.iter().enumerate().find(|&(_, &len)| len > decoder.max_positions()) {
        return Err(Error::Model(format!(
            "utterance `{}` makes a sequence of {longest} tokens ({} of speech or context, {} of target), but the decoder reads \
             at most {}; shorten or leave out that utterance, lower data.max_seconds or raise connector.stack",
            ids.get(i).map_or("?", String::as_str),
            content.len_of(i),
            targets.map_or(0, |t| t[i].len()),
            decoder.max_positions()
        )));
    }
    let tokens = decoder.embed(tape, &build.tokens)?;
    let mut sources = vec![&tokens];
    if let Content::Speech(speech, _) = content {
        sources.push(speech);
    }
    sources.extend(emotion);
    let x = nn::gather_rows(tape, &sources, build.index)?;
    let packed = Packed { seq: SeqLens::from_lens(build.lens), samples: samples.clone() };
    Ok(Assembled { x, packed, rows: build.rows, labels: build.labels })
}

#[derive(Default)]
struct Builder {
    emotion_source: u32,
    tokens: Vec<u32>,
    index: Vec<(u32, u32)>,
    lens: Vec<usize>,
    rows: Vec<u32>,
    labels: Vec<u32>,
}

impl Builder {
    fn push_tokens(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.index.push((TOKENS, self.tokens.len() as u32));
            self.tokens.push(token);
        }
    }

    fn sequence(&mut self, layout: &Layout, content: &Content, emotion: bool, target: Option<&[u32]>, i: usize) {
        let start = self.index.len();
        for part in &layout.parts {
            match part {
                Part::Bos(id) => self.push_tokens(&[*id]),
                Part::Emotion if emotion => self.index.push((self.emotion_source, i as u32)),
                Part::Emotion => {}
                Part::Speech => match content {
                    Content::Speech(_, seq) => self.index.extend(seq.range(i).map(|row| (SPEECH, row as u32))),
                    Content::Tokens(tokens) => self.push_tokens(&tokens[i]),
                },
                Part::Tokens(tokens) => self.push_tokens(tokens),
            }
        }
        if let Some(target) = target {
            // The row before each target token predicts it; the last token is predicted, not read.
            let first = self.index.len() as u32 - 1;
            self.rows.extend((0..target.len() as u32).map(|j| first + j));
            self.labels.extend_from_slice(target);
            self.push_tokens(&target[..target.len().saturating_sub(1)]);
        }
        self.lens.push(self.index.len() - start);
    }
}
