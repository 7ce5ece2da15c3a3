//! From a packed batch of utterances to what the model takes: targets and contexts as tokens, emotions as classes.

use super::{Error, Result};
use crate::data::text::{Layout, PromptConfig, Tokenizer};
use crate::data::{Batch as Utterances, Target};
use crate::model::echat::{Batch, Features, Speech};
use crate::nn::Packed;

/// Turns utterances into [`Batch`]es.
pub struct Examples {
    /// The decoder's tokenizer.
    pub tokenizer: Tokenizer,
    /// How a sequence is laid out.
    pub layout: Layout,
    /// Ends every target.
    pub eos: u32,
    /// What ends a response: EOS and the decoder's other stop tokens.
    pub stops: Vec<u32>,
    target: Target,
    emotion: bool,
    speech: bool,
}

impl Examples {
    /// For a decoder whose tokenizer lies in `dir`; `emotion` and `speech` say what the model has.
    pub fn new(
        tokenizer: Tokenizer,
        prompt: &PromptConfig,
        target: Target,
        eos: Option<u32>,
        emotion: bool,
        speech: bool,
    ) -> Result<Self> {
        let layout = Layout::new(prompt, &tokenizer)?;
        let eos = tokenizer.eos().or(eos);
        let eos = eos.ok_or_else(|| Error::Setting("the decoder's tokenizer has no EOS token".into()))?;
        if emotion && !layout.has_emotion() {
            return Err(Error::Setting("prompt.template has no {emotion}, which model.emotion = true needs".into()));
        }
        if !layout.has_speech() {
            return Err(Error::Setting("prompt.template has no {speech}".into()));
        }
        let mut stops = tokenizer.stops().to_vec();
        if !stops.contains(&eos) {
            stops.push(eos);
        }
        Ok(Self { tokenizer, layout, eos, stops, target, emotion, speech })
    }

    /// The model's view of `utterances`.
    pub fn batch(&self, utterances: &Utterances) -> Result<Batch> {
        let encode = |text: &str| self.tokenizer.encode(text).map_err(Error::from);
        let targets = utterances
            .targets(self.target)
            .zip(&utterances.ids)
            .map(|(text, id)| {
                if text.is_empty() {
                    return Err(Error::Setting(format!(
                        "utterance `{id}` has no {}, which data.target asks for",
                        self.target
                    )));
                }
                let mut tokens = encode(text)?;
                tokens.push(self.eos);
                Ok(tokens)
            })
            .collect::<Result<_>>()?;
        let lens = utterances.features.as_ref().map_or(&utterances.wave_lens, |features| &features.lens);
        if let Some(i) = lens.lens().position(|len| (len > 0) != self.speech) {
            let id = &utterances.ids[i];
            return Err(Error::Setting(if self.speech {
                format!("utterance `{id}` has no audio, but the configuration has an [encoder]")
            } else {
                format!("utterance `{id}` is speech, but the configuration has no [encoder]")
            }));
        }
        Ok(Batch {
            ids: utterances.ids.clone(),
            speech: match &utterances.features {
                Some(f) => Speech::Features(Features { speech: f.speech.clone(), means: f.means.clone() }),
                None if self.speech => Speech::Waves(utterances.waves.clone()),
                None => Speech::None,
            },
            packed: Packed { seq: lens.clone(), samples: utterances.keys.clone().into() },
            contexts: self.contexts(utterances)?,
            targets,
            emotions: self.emotions(utterances)?,
        })
    }

    fn contexts(&self, utterances: &Utterances) -> Result<Vec<Vec<u32>>> {
        if self.speech {
            return Ok(Vec::new());
        }
        let encode = |text: &Option<String>| match text {
            Some(text) => Ok(self.tokenizer.encode(text)?),
            None => Ok(Vec::new()),
        };
        utterances.contexts.iter().map(encode).collect()
    }

    fn emotions(&self, utterances: &Utterances) -> Result<Vec<u32>> {
        if !self.emotion {
            return Ok(Vec::new());
        }
        let class = |(emotion, id): (&Option<crate::data::Emotion>, &String)| match emotion {
            Some(emotion) => Ok(*emotion as u32),
            None => Err(Error::Setting(format!("utterance `{id}` has no emotion, which model.emotion = true needs"))),
        };
        utterances.emotions.iter().zip(&utterances.ids).map(class).collect()
    }

    /// What the decoder shall write for each of `utterances`.
    pub fn references<'a>(&self, utterances: &'a Utterances) -> Vec<&'a str> {
        utterances.targets(self.target).collect()
    }

    /// What the decoder learns to write.
    pub fn target(&self) -> Target {
        self.target
    }
}

/// Target tokens of `batches`.
pub fn target_tokens(batches: &[Batch]) -> usize {
    batches.iter().flat_map(|b| &b.targets).map(Vec::len).sum()
}
