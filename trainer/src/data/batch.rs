//! Packing utterances into tensors.

use candle_core::{Device, Tensor};
use echat_kernels::{SeqLens, rng, wave_norm};

use super::audio::SAMPLE_RATE;
use super::features::Packed as Features;
use super::{Emotion, Target, Utterance};

/// Utterances packed one after the other, nothing padded. Everything but the waveforms has one item an utterance.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Samples of all utterances, [samples, 1], f32, on the CPU: `i16 / 32768`, normalised per utterance if so asked.
    pub waves: Tensor,
    /// Which rows of `waves` are whose; none for a text-only utterance.
    pub wave_lens: SeqLens,
    /// What a frozen encoder made of the recordings, where it comes out of a cache; then there are no waveforms.
    pub features: Option<Features>,
    /// Number in the corpus.
    pub indices: Vec<u32>,
    /// A hash of the id: what randomness is drawn by, so that it does not depend on batching, ranks or sources.
    pub keys: Vec<u64>,
    /// Names.
    pub ids: Vec<String>,
    /// What is said.
    pub texts: Vec<String>,
    /// The answer to be given.
    pub responses: Vec<Option<String>>,
    /// How it is said.
    pub emotions: Vec<Option<Emotion>>,
    /// What stands in place of speech where there is none.
    pub contexts: Vec<Option<String>>,
}

/// A batch in the making: utterances are packed as they are read, while they are in the processor's cache.
pub struct Packing {
    normalize: bool,
    waves: Vec<f32>,
    lens: Vec<usize>,
    batch: Texts,
}

/// What a batch has of each utterance besides its waveform.
#[derive(Default)]
struct Texts {
    indices: Vec<u32>,
    keys: Vec<u64>,
    ids: Vec<String>,
    texts: Vec<String>,
    responses: Vec<Option<String>>,
    emotions: Vec<Option<Emotion>>,
    contexts: Vec<Option<String>>,
}

impl Packing {
    /// Nothing yet, with room for `samples` samples. `normalize`: each utterance to zero mean and unit variance.
    pub fn new(samples: usize, normalize: bool) -> Self {
        Self { normalize, waves: Vec::with_capacity(samples), lens: Vec::new(), batch: Texts::default() }
    }

    /// Appends `utterance`, number `index` of the corpus.
    pub fn push(&mut self, index: u32, utterance: &Utterance) {
        let owned = |text: Option<&str>| text.map(String::from);
        wave_norm::append(&utterance.audio, &mut self.waves, self.normalize);
        self.lens.push(utterance.audio.len());
        self.batch.indices.push(index);
        self.batch.keys.push(rng::mix(rng::site(utterance.id)));
        self.batch.ids.push(utterance.id.into());
        self.batch.texts.push(utterance.text.into());
        self.batch.responses.push(owned(utterance.response));
        self.batch.emotions.push(utterance.emotion);
        self.batch.contexts.push(owned(utterance.context));
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// The batch.
    ///
    /// Errors: only if candle cannot hold the tensor.
    pub fn finish(self) -> candle_core::Result<Batch> {
        let Texts { indices, keys, ids, texts, responses, emotions, contexts } = self.batch;
        let wave_lens = SeqLens::from_lens(self.lens);
        let waves = Tensor::from_vec(self.waves, (wave_lens.total(), 1), &Device::Cpu)?;
        Ok(Batch { waves, wave_lens, features: None, indices, keys, ids, texts, responses, emotions, contexts })
    }
}

impl Batch {
    /// The number of utterances.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The first `count` utterances alone, by their waveforms.
    pub fn first(&self, count: usize) -> candle_core::Result<Self> {
        let count = count.min(self.len());
        let wave_lens = SeqLens::from_lens(self.wave_lens.lens().take(count));
        Ok(Self {
            waves: self.waves.narrow(0, 0, wave_lens.total())?,
            wave_lens,
            features: None,
            indices: self.indices[..count].to_vec(),
            keys: self.keys[..count].to_vec(),
            ids: self.ids[..count].to_vec(),
            texts: self.texts[..count].to_vec(),
            responses: self.responses[..count].to_vec(),
            emotions: self.emotions[..count].to_vec(),
            contexts: self.contexts[..count].to_vec(),
        })
    }

    /// Seconds of speech.
    pub fn seconds(&self) -> f64 {
        self.wave_lens.total() as f64 / f64::from(SAMPLE_RATE)
    }

    /// What the decoder shall write for each utterance.
    pub fn targets(&self, target: Target) -> impl Iterator<Item = &str> {
        self.texts.iter().zip(&self.responses).map(move |(text, response)| target.choose(text, response.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn utterance(id: &str, audio: Vec<i16>) -> Utterance<'_> {
        Utterance {
            id,
            text: "t",
            response: Some("r"),
            emotion: None,
            speaker: None,
            context: None,
            audio: audio.into(),
        }
    }

    fn pack(utterances: &[(u32, Utterance)], normalize: bool) -> Batch {
        let mut packing = Packing::new(0, normalize);
        utterances.iter().for_each(|(index, utterance)| packing.push(*index, utterance));
        packing.finish().unwrap()
    }

    fn rows(batch: &Batch, i: usize) -> Vec<f32> {
        let all: Vec<f32> = batch.waves.flatten_all().unwrap().to_vec1().unwrap();
        all[batch.wave_lens.range(i)].to_vec()
    }

    #[test]
    fn neighbours_change_nothing() {
        let noise = |seed: u64, n: u64| (0..n).map(|i| (rng::key(seed, i) >> 52) as i16).collect::<Vec<i16>>();
        let utterances = [utterance("a", noise(1, 700)), utterance("b", vec![]), utterance("c", noise(2, 301))];
        for normalize in [false, true] {
            let numbered: Vec<_> = utterances.iter().cloned().enumerate().map(|(i, u)| (i as u32, u)).collect();
            let together = pack(&numbered, normalize);
            assert_eq!(together.waves.dims(), [1001, 1]);
            assert_eq!(together.wave_lens.offsets(), [0, 700, 700, 1001]);
            for (i, one) in numbered.iter().enumerate() {
                let alone = pack(std::slice::from_ref(one), normalize);
                assert_eq!(rows(&alone, 0), rows(&together, i));
                assert_eq!((alone.keys[0], &alone.ids[0]), (together.keys[i], &together.ids[i]));
            }
        }
        let batch = pack(&[(0, utterances[0].clone())], true);
        let wave = rows(&batch, 0);
        let mean = wave.iter().sum::<f32>() / 700.0;
        let var = wave.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 700.0;
        assert!(mean.abs() <= 1e-5 && (var - 1.0).abs() <= 1e-3, "{mean} {var}");
        let plain = rows(&pack(&[(0, utterances[0].clone())], false), 0);
        assert!(plain.iter().zip(&*utterances[0].audio).all(|(&x, &y)| x == f32::from(y) / 32_768.0));
    }

    #[test]
    fn a_batch_of_text_alone_has_no_samples() {
        let batch = pack(&[(0, utterance("a", vec![])), (1, utterance("b", vec![]))], true);
        assert_eq!(batch.waves.dims(), [0, 1]);
        assert_eq!((batch.len(), batch.wave_lens.count(), batch.seconds()), (2, 2, 0.0));
        assert_eq!(batch.targets(Target::Response).collect::<Vec<_>>(), ["r", "r"]);
        assert_ne!(batch.keys[0], batch.keys[1]);
        assert!(Packing::new(9, true).finish().unwrap().is_empty());
    }
}
