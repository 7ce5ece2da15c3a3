//! Generation with a cache of keys and values.

mod sampling;

use echat_kernels::{linear, tensor};

pub use sampling::{GenerationConfig, GenerationDefaults, Sampling, SamplingError};

use super::decoder::Decoder;
use super::echat::Assembled;
use crate::autograd::{Result, Tape};
use crate::nn::{Packed, SeqLens};

/// Continues each assembled sequence until one of `stops` or the limit of `sampling`; `on_token(sequence, token)` is called as they come (not
/// for a stop). Returns the tokens of each, without it.
pub fn generate(
    decoder: &Decoder,
    prompt: &Assembled,
    sampling: &Sampling,
    stops: &[u32],
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<Vec<Vec<u32>>> {
    let count = prompt.packed.seq.count();
    let capacity = prompt.packed.seq.max_len() + sampling.max_new_tokens;
    let mut cache = decoder.cache(count, capacity)?;
    let mut generated: Vec<Vec<u32>> = vec![Vec::new(); count];
    let mut active: Vec<usize> = (0..count).collect();
    let hidden = decoder.extend(&prompt.x, &prompt.packed, &mut cache)?;
    let mut last: Vec<u32> = prompt.packed.seq.ranges().map(|r| r.end as u32 - 1).collect();
    let mut hidden = hidden.tensor().clone();
    let tape = Tape::inference();
    let head = decoder.head(&tape)?;
    while !active.is_empty() {
        let rows = candle_core::Tensor::from_vec(last, active.len(), hidden.device())?;
        let logits = linear::forward(&hidden.index_select(&rows, 0)?, head.tensor(), None)?;
        let mut logits = tensor::to_host(&logits)?;
        let vocab = head.dims()[0];
        let mut next = Vec::new();
        let mut still = Vec::new();
        for (row, &i) in active.iter().enumerate() {
            let token = sampling.next(&mut logits[row * vocab..][..vocab], &generated[i], prompt.packed.samples[i]);
            if stops.contains(&token) {
                continue;
            }
            on_token(i, token);
            generated[i].push(token);
            if generated[i].len() < sampling.max_new_tokens && cache.room(i) > 0 {
                next.push(token);
                still.push(i);
            }
        }
        active = still;
        if active.is_empty() {
            break;
        }
        let lens = (0..count).map(|i| usize::from(active.contains(&i)));
        let packed = Packed { seq: SeqLens::from_lens(lens), samples: prompt.packed.samples.clone() };
        let x = decoder.embed(&tape, &next)?;
        hidden = decoder.extend(&x, &packed, &mut cache)?.tensor().clone();
        last = (0..active.len() as u32).collect();
    }
    Ok(generated)
}
